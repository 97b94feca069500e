"""What a student's folder says of it: model_index.json, and the model card with how it was made, its figures, how to draw with it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from marval_ray.evaluation.metrics import BY_JUDGE, SPEED, error_of, markdown_table
from marval_ray.files.atomic import atomic_path
from marval_ray.files.text import read_json
from marval_ray.hub.exported import CARD, Index
from marval_ray.hub.layout import CONFIG
from marval_ray.runs.folder import SETTINGS
from marval_ray.runs.measured import TITLES, Measured, final_loops, measured_in

TEXT = """---
{data}
---

# One-step student of a masked auto-regressive image model

Each token takes one diffusion step. Distilled by guided score implicit matching{reinforced} (MARVAL, arXiv 2511.15190) with marval_ray.

```python
from marval_ray.pipeline import MarvalPipeline

pipeline = MarvalPipeline.from_pretrained(FOLDER)  # of the Hub: huggingface_hub.snapshot_download(NAME)
pipeline({asked}, num_loops={loops}).images[0].save("one.png")
```

{made}

{figures}

The licence, {licence}, is that of the teacher's weights, from which this student was made.
"""
FIGURES = """## Figures

{table}

Of the run's own evaluation: FD and KID are distances in the features of its judges, of which (B) decided nothing; ± is a standard error.
They are not the FID of Inception's features, which `jobs/fid.py` measures."""

EMBEDDED_LICENCE = "mit"
"""Of Fashion-MNIST, on which the embedded teacher was trained."""


def present(folder: Path, index: Index, run: Path) -> None:
    """Write model_index.json and README.md into `folder`; `run` is the folder that tells how the student was made."""
    index.write(folder)
    with atomic_path(folder / CARD) as temporary:
        temporary.write_text(card(index, told_in(run), summary_in(run)), encoding="utf-8")


def index_of(run: Path, loops: int, class_names: tuple[str, ...] = ()) -> Index:
    """Return what model_index.json says of a run's student. loops: N_AR as long as no figures tell a better one."""
    return Index(final_loops(summary_in(run)) or loops, licence_of(told_in(run)), class_names)


def told_in(run: Path) -> dict[str, Any]:
    """Return all settings of a run, also of an older one, which has them in config.json; of another folder what that says."""
    return next((read_json(run / name) for name in (SETTINGS, CONFIG) if (run / name).exists()), {})


def summary_in(run: Path) -> dict[str, Any]:
    """Return summary.json, empty where there is none."""
    path = run / "summary.json"
    return read_json(path) if path.exists() else {}


def licence_of(told: Mapping[str, Any]) -> str | None:
    """Return the licence of a run's teacher, None where it is not known."""
    teacher = str(told.get("teacher", told.get("vae", "")))
    return EMBEDDED_LICENCE if teacher.startswith("embedded/") else None


def card(index: Index, told: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """Return README.md. told: the run's settings; summary: its figures."""
    reads_texts = told.get("texts") is not None
    data = ModelCardData(
        license=index.licence, library_name="marval_ray", tags=["one-step", "dc-ar" if reads_texts else "mar"],
        pipeline_tag="text-to-image" if reads_texts else "unconditional-image-generation",
    )  # fmt: skip
    rows = [each for key, each in measured_in(summary).items() if key in TITLES]
    return TEXT.format(
        data=data.to_yaml(), reinforced=" and reinforcement learning" if "rl" in told.get("stages", ()) else "", loops=index.loops,
        asked='prompts=["a red apple"]' if reads_texts else "class_labels=[0, 1]", made=made(told),
        figures=FIGURES.format(table=table(rows)) if rows else "No figures were measured with it.",
        licence=index.licence or "not known here",
    )  # fmt: skip


def made(told: Mapping[str, Any]) -> str:
    """Say which teacher and which settings made it, as far as its settings tell; folders of this machine are nobody's business."""
    if "learner" not in told:
        return "How it was trained is not known."
    gsim, learner, rl = told["gsim"], told["learner"], told["rl"]
    said = [
        f"* Teacher: {Path(told['teacher']).name}",
        f"* GSIM: {learner['steps']:,} updates of {learner['batch'] * learner['workers']} images, w = {gsim['w']} ({gsim['w_schedule']}), "
        f"learning rate {learner['lr']:g}",
    ]
    if "rl" in told.get("stages", ()):
        rewards = [f"{kind}:{Path(place).name}" for kind, _, place in (reward.partition(":") for reward in rl["rewards"])]
        loops = " and ".join(map(str, rl["loops"]))
        said.append(f"* RL: {told['rl_learner']['steps']:,} updates at N_AR {loops}, reward {' + '.join(rewards)}")
    return "\n".join(said)


def table(rows: list[Measured]) -> str:
    """Return the figures in Markdown, a row for each model and moment."""
    metrics = [metric for name, metric in BY_JUDGE.items() if all(name in row.scores for row in rows)]
    lines = []
    for row in rows:
        cells = [metric.text(row.scores[metric.name], row.scores.get(error_of(metric.name))) for metric in metrics]
        lines.append([TITLES[row.model, row.when], str(row.loops), *cells, f"{row.speed:.3g}"])
    return markdown_table(["", "N_AR", *(metric.title for metric in metrics), SPEED.title], lines)
