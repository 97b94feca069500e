"""Measure docs/results.md and the README's table: three training seeds of the default, and an ablation that changes one
setting at a time.

Each run is `jobs/distill.py` in a folder of its own under runs/results. What was measured is kept in docs/results.json
beside the settings that gave it, and measured again only when those have changed; an interrupted run is resumed. So the
command may be stopped and repeated. The pictures of the README come from the first seed.
"""

import json
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from marval_ray import assets_index, cli, report
from marval_ray.config import PRESETS
from marval_ray.evaluation import Row
from marval_ray.figures import FiguresConfig
from marval_ray.files import atomic_path, write_json

ROOT = Path(__file__).parent.parent
DEFAULT = PRESETS["tiny"]
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "w = 1.2": {"gsim.w": 1.2},
    "w = 1.35": {"gsim.w": 1.35},
    "w = 2": {"gsim.w": 2.0},
    "k = 1": {"gsim.k": 1.0},
    "k = 0": {"gsim.k": 0.0},
    "t* = 200": {"model.student_timestep": 200},
    "t* = 500": {"model.student_timestep": 500},
    "t* = 600": {"model.student_timestep": 600},
    "2 auxiliary updates": {"gsim.auxiliary_updates": 2},
    "lambda = sigma": {"gsim.weighting": "sigma"},
    "lambda = 1": {"gsim.weighting": "constant"},
    "half the learning rates": {"learner.lr": 2e-4, "learner.auxiliary_lr": 4e-4},
    "twice the learning rates": {"learner.lr": 8e-4, "learner.auxiliary_lr": 1.6e-3},
}
"""Changes of the default, one at a time."""

BEGIN, END = "<!-- results: written by `make results` -->\n", "<!-- end of results -->\n"

Summary = dict[str, Any]
Settings = dict[str, Any]
"""Values by the name of their option."""


@dataclass(frozen=True)
class Config:
    out: Path = Path("runs/results")
    records: Path = Path("docs/results.json")
    document: Path = Path("docs/results.md")
    readme: Path = Path("README.md")
    seeds: tuple[int, ...] = (0, 1, 2)
    samples: int = 2000
    ablation: bool = True
    ablation_steps: int = 100
    ablation_samples: int = 500
    ablation_loops: tuple[int, ...] = (8, 16)


def main(config: Config) -> None:
    seeds = [run(config, f"seed-{s}", {"seed": s, "figures.samples": config.samples}) for s in config.seeds]
    shared = {"learner.steps": config.ablation_steps, "figures.samples": config.ablation_samples, "figures.loops": config.ablation_loops}
    variants = VARIANTS if config.ablation else {}
    ablation = {name: run(config, folder(name), shared | changes) for name, changes in variants.items()}
    pictures = config.document.parent / "images"
    pictures.mkdir(parents=True, exist_ok=True)
    first = config.out / f"seed-{config.seeds[0]}"
    for name in ("grid.png", "losses.png") if first.exists() else ():
        shutil.copy(first / name, pictures / name)
    report.plot_loops(pictures / "loops.png", teacher_rows(config) + student_rows(seeds[0]))
    write(config.document, document(config, seeds, ablation))
    before, rest = config.readme.read_text().split(BEGIN)
    write(config.readme, f"{before}{BEGIN}{headline(seeds)}\n{END}{rest.split(END)[1]}")


def teacher_rows(config: Config) -> list[Row]:
    """As they are now: their speed may have been measured anew since a run was made."""
    return replace(FiguresConfig.embedded(), samples=config.samples).teacher_rows()


def student_rows(summary: Summary) -> list[Row]:
    return [row for row in summary["loops"] if row["model"] == "student"]


def write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text)
    print(path)


def folder(name: str) -> str:
    return "ablation-" + "".join(c if c.isalnum() or c in ".-" else "_" for c in name)


def run(config: Config, name: str, options: Settings) -> Summary:
    """The summary of a run with `options`, from the records when they have one of the same settings."""
    records = json.loads(config.records.read_text()) if config.records.exists() else {}
    wanted = json.loads(json.dumps(settings(options)))
    if name not in records or records[name]["settings"] != wanted:
        records[name] = {"settings": wanted, "summary": distil(config.out / name, options)}
        write_json(config.records, records)
    return records[name]["summary"]


def settings(options: Settings) -> Settings:
    """All that a run's figures depend on: the default with `options`, by dotted name."""
    parts: dict[str, Any] = {"model": DEFAULT.model, "gsim": DEFAULT.gsim, "learner": DEFAULT.learner}
    default = {f"{part}.{key}": value for part, values in parts.items() for key, value in asdict(values).items()}
    return default | {"seed": 0} | options


def distil(out: Path, options: Settings) -> Summary:
    """The summary of a run in `out`; an interrupted one goes on."""
    flags = [text for name, value in options.items() for text in (f"--{name}", *words(value))]
    print(out, *flags, flush=True)
    began = time.monotonic()
    if (out / "config.json").exists() and not (out / "summary.json").exists():
        flags += ["--resume"]
    else:
        flags += ["--overwrite"]
    subprocess.run([sys.executable, ROOT / "jobs/distill.py", "--out", out, "--stages", "gsim", *flags], check=True)
    print(f"{time.monotonic() - began:.0f} s", flush=True)
    return json.loads((out / "summary.json").read_text())


def words(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, tuple) else [str(value)]


def document(config: Config, seeds: list[Summary], ablation: dict[str, Summary]) -> str:
    teacher = json.loads(assets_index.TEACHER_FIGURES.read_text())
    return TEXT.format(
        command=shlex.join(["python", "bench/results.py", *sys.argv[1:]]),
        samples=config.samples,
        seeds=len(seeds),
        steps=DEFAULT.learner.steps,
        teacher_command=teacher["command"],
        guidance=f"{teacher['sampler']['cfg']} ({teacher['sampler']['cfg_schedule']} schedule)",
        headline=headline(seeds),
        loops=loop_table(teacher_rows(config), seeds),
        ablation=ablation_section(config, ablation) if ablation else "",
    )


def over(seeds: list[Summary], name: str, form: str) -> str:
    """Mean +- standard deviation over seeds."""
    values = [summary[name] for summary in seeds if name in summary]
    if len(values) < len(seeds):
        return f"reached by {len(values)} of {len(seeds)} seeds"
    spread = f" ± {stdev(values):{form}}" if len(set(values)) > 1 else ""
    return f"{mean(values):{form}}{spread}"


def headline(seeds: list[Summary]) -> str:
    first = seeds[0]
    n_ar = first["loops"][-1]["n_ar"]
    rows = [
        ("Teacher, its best setting", f"{first['teacher_n_ar']} loops x 100 steps", "teacher", ""),
        ("Student before GSIM", f"{n_ar} loops x 1 step", "student", "_before"),
        ("Student", f"{n_ar} loops x 1 step", "student", ""),
        ("Student, its best N_AR", "see below", "student_best", ""),
    ]
    lines = ["| | sampling | FD | accuracy | diversity |", "|--|--|--|--|--|"]
    for title, sampling, name, suffix in rows:
        cells = [over(seeds, f"{name}_{key}{suffix}", form) for key, form in (("fd", ".2f"), ("accuracy", ".3f"), ("diversity", ".3f"))]
        lines.append(f"| {title} | {sampling} | {' | '.join(cells)} |")
    lines += [
        "",
        f"* FD of the student with {n_ar} loops over the teacher's best: {over(seeds, 'fd_ratio', '.2f')}.",
        f"* Speed-up of the fastest student of no worse FD over the teacher's best setting: {speed_up(seeds)}",
        f"* GSIM took {over(seeds, 'seconds_gsim', '.0f')} s.",
    ]
    return "\n".join(lines)


def speed_up(seeds: list[Summary]) -> str:
    reached = [summary for summary in seeds if "speed_up" in summary]
    if not reached:
        return "none is as good as that."
    loops = ", ".join(str(summary["speed_up_n_ar"]) for summary in reached)
    note = "" if len(reached) == len(seeds) else f"; {len(seeds) - len(reached)} of {len(seeds)} seeds have none"
    return f"{over(reached, 'speed_up', '.0f')} times, at N_AR = {loops}{note} (batch 64, timed in the same run)."


def loop_table(teacher_rows: list[Row], seeds: list[Summary]) -> str:
    lines = ["| N_AR | teacher FD | accuracy | images/s | student FD | accuracy | images/s |", "|--|--|--|--|--|--|--|"]
    teacher = {row["n_ar"]: row for row in teacher_rows}
    by_seed = [{row["n_ar"]: row for row in student_rows(summary)} for summary in seeds]
    for n in by_seed[0]:
        rows = [rows[n] for rows in by_seed]
        t = teacher.get(n)
        left = f"{t['fd']:.2f} | {t['accuracy']:.3f} | {t['images_per_second']:.1f}" if t else " | | "
        cells = (over(rows, "fd", ".2f"), over(rows, "accuracy", ".3f"), f"{mean(r['images_per_second'] for r in rows):.0f}")
        lines.append(f"| {n} | {left} | {' | '.join(cells)} |")
    return "\n".join(lines)


def ablation_section(config: Config, ablation: dict[str, Summary]) -> str:
    steps, samples = config.ablation_steps, config.ablation_samples
    lines = [
        "## What the settings do\n",
        f"One change of the default at a time, one seed, {steps} updates, {samples} samples.\n",
    ]
    titles = [f"FD, {n} loops | accuracy | diversity" for n in config.ablation_loops]
    lines += [f"| change | {' | '.join(titles)} | GSIM seconds |", "|--|" + "--|--|--|" * len(titles) + "--|"]
    for name, summary in ablation.items():
        rows = {row["n_ar"]: row for row in student_rows(summary)}
        cells = [f"{rows[n]['fd']:.2f} | {rows[n]['accuracy']:.3f} | {rows[n]['diversity']:.3f}" for n in config.ablation_loops]
        lines.append(f"| {name} | {' | '.join(cells)} | {summary['seconds_gsim']:.0f} |")
    return "\n".join(lines) + "\n"


TEXT = """# Results of the embedded model

Made by `{command}` on 2 CPU cores; `make results` gives it whole.

FD: Frechet distance to the 10,000 test images of Fashion-MNIST in the features of
the embedded classifier; it falls with the number of samples, so compare equal numbers only. Accuracy: share of samples
that the classifier gives the class that was asked for. Diversity: mean feature distance within a class over that of real
images. Teacher figures: `{teacher_command}`; of the guidance scales and schedules tried there {guidance} won.

## One diffusion step a token against the teacher's hundred

{samples} samples, {seeds} training seeds (mean ± standard deviation), {steps} updates.

{headline}

![Same seeds and classes: teacher, student before, student after](images/grid.png)

## Quality and speed by number of loops

{samples} samples of each.

{loops}

![FD and images/s against the number of loops](images/loops.png)

![Losses of the first seed](images/losses.png)

{ablation}"""


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
