"""Measure docs/text-to-image.md: the embedded text-to-image default through both stages, and what residuals and codes each have of it.

The default run comes first; then RL of residuals alone and of codes alone from its student between the stages. Records are kept and runs
resumed as by bench/results.py.
"""

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import tables
from jaxtyping import Float
from records import Records, Settings, Summary, copy_pictures, slug, write_between
from torch import Tensor

from marval_ray import cli
from marval_ray.embedded import assets_index
from marval_ray.embedded.shipped_judges import SCENES
from marval_ray.evaluation.judges import Judges
from marval_ray.evaluation.metrics import ACCURACY, BY_JUDGE, FD, SPEED, by_b, markdown_table
from marval_ray.evaluation.sweep import Row, measure
from marval_ray.families.base import Codec
from marval_ray.families.dcar.presets import SCENES as MODEL
from marval_ray.families.generation import student_generation
from marval_ray.hub.layout import load_model
from marval_ray.presets import PRESETS
from marval_ray.prompt_sets import read_set
from marval_ray.runs.measured import LOOPS, Measured, gain, measured_in
from marval_ray.runs.stage import GSIM, RL
from marval_ray.types import Tokens

DEFAULT = PRESETS["tiny-t2i"]
BEGIN, END = "<!-- figures: written by bench/text_to_image.py -->\n", "<!-- end of figures -->\n"
PICTURES = {"grid.png": "scenes-grid.png", "frontier.png": "scenes-frontier.png"}
VARIANTS: dict[str, Settings] = {
    "residuals alone": {"rl.estimator": "pathwise", "rl.freeze_backbone": True},
    "codes alone": {"rl.estimator": "codes"},
}
"""Of RL; the default trains both."""
OBJECT = "object"
METRICS = [BY_JUDGE[name] for name in (FD.name, by_b(FD.name), OBJECT, by_b(OBJECT), ACCURACY.name, by_b(ACCURACY.name))]
TITLES = [metric.title for metric in METRICS]


@dataclass(frozen=True)
class Config:
    out: Path = Path("runs/text-to-image")
    records: Path = Path("docs/text-to-image.json")
    document: Path = Path("docs/text-to-image.md")
    held_out_reward: str | None = None
    """A reward that nothing learns from, such as pickscore:FOLDER of another CLIP."""
    samples: int = 500
    """Of a set."""
    sets: int = 3


@dataclass(frozen=True)
class CodesAlone:
    """A codec that leaves the residuals out."""

    codec: Codec
    id: str = "codes alone"

    def to(self, device: object) -> "CodesAlone":
        return self

    def decode(self, tokens: Tokens) -> Float[Tensor, "B C H W"]:
        return self.codec.decode(replace(tokens, values=0 * tokens.values))


def main(config: Config) -> None:
    shared: Settings = {"figures.samples": config.samples, "figures.sets": config.sets}
    if config.held_out_reward:
        shared["rl.held_out_rewards"] = (config.held_out_reward,)
    records, whole = Records(config.records, config.out, "tiny-t2i"), config.out / "default"
    run = records.measure("default", "gsim,rl", shared)
    alone = {"student": str(whole / GSIM.student), "figures.teacher": None, "figures.loops": DEFAULT.rl.loops}
    others = {title: records.measure(slug(title), "rl", shared | alone | own) for title, own in VARIANTS.items()}
    bare = {
        title: records.kept(slug(f"{title} bare"), "gsim,rl", shared, partial(without_residuals, whole / stage.student, config))
        for title, stage in (("before RL", GSIM), ("after RL", RL))
    }
    copy_pictures(whole, config.document.parent / "images", PICTURES)
    text = "\n\n".join([headline(run), said(run), parts_table(run, others, bare)])
    write_between(config.document, BEGIN, END, f"\n{text}\n\n")


def headline(run: Summary) -> str:
    """Return the table of the default run."""
    found = measured_in(run)
    steps = json.loads(assets_index.SCENE_FIGURES.read_text(encoding="utf-8"))["sampler"]["steps"]
    names = {
        ("teacher", ""): ("teacher, its best N_AR", f"{steps} steps"), ("student", "before"): ("one step, before training", "1 step"),
        ("student", "before_rl"): ("one step, after GSIM", "1 step"), ("student", ""): ("one step, after RL", "1 step"),
    }  # fmt: skip
    rows = [
        [title, f"{found[key].loops} loops, {steps}", *cells(found[key]), f"{found[key].speed:.3g}"]
        for key, (title, steps) in names.items()
    ]
    return markdown_table(["", "sampling", *TITLES, SPEED.title], rows)


def said(run: Summary) -> str:
    """Return what the figures allow to be said, as a list."""
    found = measured_in(run)
    teacher, distilled, final = found["teacher", ""], found["student", "before_rl"], found["student", ""]
    lines = [
        f"* {BY_JUDGE[name].title} over the teacher's: {distilled.scores[name] / teacher.scores[name]:.2f} after GSIM, "
        f"{final.scores[name] / teacher.scores[name]:.2f} after RL."
        for name in (FD.name, by_b(FD.name))
    ]
    pairs = [(final.scores, distilled.scores)]
    lines += [f"* {metric.title} after RL against before it: {tables.compared(pairs, metric)}." for metric in (FD, ACCURACY)]
    rewards = [name.removesuffix("_before_std") for name in run if name.endswith("_before_std")]
    lines += [f"* {name.replace('_', ' ')}: {gain(run, name):+.2f} standard deviations of an image's before RL." for name in rewards]
    lines += [
        f"* One step is {teacher_pace(run):.1f} times as fast as the teacher's chain in as many loops, and "
        f"{final.speed / teacher.speed:.1f} times as fast as the teacher in its best number of them.",
        f"* GSIM took {run[GSIM.seconds]:.0f} s, RL {run[RL.seconds]:.0f} s, all of it {run['seconds_total']:.0f} s.",
    ]
    return "\n".join(lines)


def teacher_pace(run: Summary) -> float:
    """Return how many times as fast as the teacher the student is at RL's number of loops."""
    speeds = {row["model"]: row[SPEED.name] for row in run["loops"] if row[LOOPS] == DEFAULT.rl.loops[0]}
    return speeds["student"] / speeds["teacher"]


def parts_table(run: Summary, others: dict[str, Summary], bare: dict[str, Row]) -> str:
    """Return what RL does to residuals, codes and both, and what students draw without their residuals."""
    before = measured_in(run)["student", "before_rl"]
    rows = [["before RL", "0", *cells(before)]]
    for title, one in (*others.items(), ("both", run)):
        rows.append([f"RL of {title}", f"{gain(one):+.2f}", *cells(measured_in(one)["student", ""])])
    for title, row in bare.items():
        rows.append([f"{title}, codes without residuals", "", *cells(Measured.of(row, "student"))])
    return markdown_table(["", "reward, SD", *TITLES], rows)


def without_residuals(student: Path, config: Config) -> Row:
    """Measure what a student's codes are worth alone."""
    prompts = read_set(assets_index.HELD_OUT_PROMPTS).prompts.in_turn(config.samples * config.sets)
    codec = CodesAlone(MODEL.family.codec(assets_index.SCENE_CODEC, MODEL))
    generation = student_generation(load_model(student), codec, DEFAULT.rl.loops[0], texts=assets_index.SCENE_TEXTS)
    row, _ = measure("student", generation, prompts, DEFAULT.guard.seed, Judges.load(*SCENES), config.sets)
    return row


def cells(measured: Measured) -> list[str]:
    return tables.cells([measured], METRICS)


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
