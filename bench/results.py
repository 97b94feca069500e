"""Measure docs/results.md and the README's table: three training seeds of the default, and one setting at a time changed.

Each run is `jobs/distill.py` in a folder of its own under runs/results. What was measured is kept in docs/results.json
beside the settings that gave it, and measured again only when those have changed; an interrupted run is resumed. So the
command may be stopped and repeated. The pictures of the README come from the first seed.

Runs of the RL stage start from the embedded student between the stages.
"""

import json
import shlex
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tables
from records import DEFAULT, Records, Settings, Summary

from marval_ray import cli
from marval_ray.embedded import assets_index
from marval_ray.files.atomic import atomic_path
from marval_ray.presets import PRESETS, SAMPLERS
from marval_ray.runs import report
from marval_ray.runs.figures import FiguresConfig

GUIDED: Settings = {"gsim.w": 1.5}
"""The better student where no RL follows: the default of both stages, w = 1, leaves accuracy to RL."""

GSIM: dict[str, Settings] = {
    "w = 1.5": {},
    "w = 1.35": {"gsim.w": 1.35},
    "w = 2": {"gsim.w": 2.0},
    "k = 1": {"gsim.k": 1.0},
    "k = 0": {"gsim.k": 0.0},
    "t* = 200": {"model.student_timestep": 200},
    "t* = 600": {"model.student_timestep": 600},
    "2 auxiliary updates": {"gsim.auxiliary_updates": 2},
    "lambda = sigma": {"gsim.weighting": "sigma"},
    "lambda = 1": {"gsim.weighting": "constant"},
    "half the learning rates": {"learner.lr": 2e-4, "learner.auxiliary_lr": 4e-4},
    "twice the learning rates": {"learner.lr": 8e-4, "learner.auxiliary_lr": 1.6e-3},
}
"""Changes of the first stage, one at a time."""

ONE_THREAD: Settings = {
    "rl.rollout.threads": 1, "rl.reward.threads": 1, "rl.judge.threads": 1, "rl_learner.threads_per_worker": 1,
}  # fmt: skip
"""For actors that work at the same time: two threads of each would fight for two cores."""

RL: dict[str, Settings] = {
    "default": {},
    "K = 1": {"rl.last": 1},
    "K = all 8": {"rl.last": 8},
    "N_AR = 4": {"rl.loops": (4,), "rl.last": 4},
    "N_AR = 64, K = 1": {"rl.loops": (64,), "rl.last": 1, "guard.every": 4},
    "N_AR = 64, K = 8": {"rl.loops": (64,), "rl.last": 8, "guard.every": 4},
    "N_AR = 16, K = 8": {"rl.loops": (16,), "rl.last": 8},
    "N_AR = 64, K = 32": {"rl.loops": (64,), "rl.last": 32, "guard.every": 2},
    "N_AR = 64, K = 64": {"rl.loops": (64,), "rl.last": 64, "guard.every": 1},
    "GSIM weight 10": {"rl.gsim_weight": 10.0},
    "saturating at 1": {"rl.saturate": 1.0},
    "staleness 1, one thread an actor": {"rl.max_staleness": 1} | ONE_THREAD,
    "staleness 2, one thread an actor": {"rl.max_staleness": 2} | ONE_THREAD,
    "policy gradient": {"rl.estimator": "policy"},
}
"""Changes of the second stage, one at a time, at equal wall-clock. The slow ones need looks after fewer updates."""

BEGIN, END = "<!-- results: written by `make results` -->\n", "<!-- end of results -->\n"


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
    rl: bool = True
    """Also the RL stage."""
    rl_samples: int = 1000
    """Of the figures of RL; its guard takes `ablation_samples`."""
    rl_seconds: float = 60.0
    """Wall-clock of each RL run."""
    rl_rivals: tuple[str, ...] = ("K = all 8",)
    """Variants that are run with all seeds, like the default."""


def main(config: Config) -> None:
    records = Records(config.records, config.out)
    shared = GUIDED | {"figures.samples": config.samples}
    seeds = [records.measure(f"seed-{seed}", "gsim", shared | {"seed": seed}) for seed in config.seeds]
    pictures = config.document.parent / "images"
    pictures.mkdir(parents=True, exist_ok=True)
    first = config.out / f"seed-{config.seeds[0]}"
    for name in ("grid.png", "losses.png") if first.exists() else ():
        shutil.copy(first / name, pictures / name)
    report.plot_loops(pictures / "loops.png", teacher_rows(config) + list(tables.student_rows(seeds[0]).values()))
    wanted = (gsim_section,) * config.ablation + (rl_section,) * config.rl
    sections = [section(config, records) for section in wanted]
    write(config.document, document(config, seeds, sections))
    before, rest = config.readme.read_text(encoding="utf-8").split(BEGIN)
    write(config.readme, f"{before}{BEGIN}{tables.headline(seeds)}\n{END}{rest.split(END)[1]}")


def teacher_rows(config: Config) -> list[dict[str, Any]]:
    """As they are now: their speed may have been measured anew since a run was made."""
    return replace(FiguresConfig.of(PRESETS["tiny"].files, SAMPLERS["tiny"]), samples=config.samples).teacher_rows()


def gsim_section(config: Config, records: Records) -> str:
    shared = GUIDED | {
        "learner.steps": config.ablation_steps, "figures.samples": config.ablation_samples, "figures.loops": config.ablation_loops,
    }  # fmt: skip
    runs = records.variants("ablation", "gsim", shared, GSIM)
    return GSIM_TEXT.format(
        steps=config.ablation_steps, samples=config.ablation_samples, table=tables.gsim_table(runs, config.ablation_loops)
    )


def rl_section(config: Config, records: Records) -> str:
    shared = {
        "student": assets_index.GSIM_STUDENT, "rl_learner.seconds": config.rl_seconds, "rl_learner.steps": 10_000,
        "guard.every": 10, "guard.samples": config.ablation_samples,
        "figures.samples": config.rl_samples, "figures.loops": DEFAULT.rl.loops, "figures.teacher": None,
    }  # fmt: skip
    runs = {title: [run] for title, run in records.variants("rl", "rl", shared, RL).items()}
    for seed in config.seeds[1:]:
        again = {title: RL[title] for title in ("default", *config.rl_rivals)}
        for title, run in records.variants(f"rl-{seed}", "rl", shared | {"seed": seed}, again).items():
            runs[title].append(run)
    return RL_TEXT.format(seconds=config.rl_seconds, samples=config.rl_samples, loops=DEFAULT.rl.loops[0], table=tables.rl_table(runs))


def write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(path)


def document(config: Config, seeds: list[Summary], sections: list[str]) -> str:
    teacher = json.loads(assets_index.TEACHER_FIGURES.read_text(encoding="utf-8"))
    return TEXT.format(
        command=shlex.join(["python", "bench/results.py", *sys.argv[1:]]),
        samples=config.samples,
        seeds=len(seeds),
        steps=DEFAULT.learner.steps,
        teacher_command=teacher["command"],
        guidance=f"{teacher['sampler']['cfg']} ({teacher['sampler']['cfg_schedule']} schedule)",
        headline=tables.headline(seeds),
        loops=tables.loop_table(teacher_rows(config), seeds),
        sections="\n".join(sections),
    )


TEXT = """# Results of the embedded model

Made by `{command}` on 2 CPU cores; `make results` gives it whole.

FD: Frechet distance to the 10,000 test images of Fashion-MNIST in the features of
the embedded classifier; it falls with the number of samples, so compare equal numbers only. Accuracy: share of samples
that the classifier gives the class that was asked for. Diversity: mean feature distance within a class over that of real
images. Teacher figures: `{teacher_command}`; of the guidance scales and schedules tried there {guidance} won.

## One diffusion step a token against the teacher's hundred

GSIM alone with guidance w = 1.5: {samples} samples, {seeds} training seeds (mean ± standard error; of times and speeds the
median), {steps} updates.

{headline}

![Same seeds and classes: teacher, student before, student after](images/grid.png)

## Quality and speed by number of loops

{samples} samples of each.

{loops}

![FD and images/s against the number of loops](images/loops.png)

![Losses of the first seed](images/losses.png)

{sections}"""

GSIM_TEXT = """## What the settings of GSIM do

One change at a time, one seed, {steps} updates, {samples} samples.

{table}
"""

RL_TEXT = """## What the settings of RL do

One change of the default at a time, {seconds:.0f} s of updates and looks of the guard each (500 samples every 10 updates), from the
embedded student between the stages; {samples} samples with {loops} loops. The student is the last inside the guard's bands. Reward: rise
of its mean over 500 images, drawn with the variant's own N_AR, in standard deviations of the scores before. In the same time rollouts of 64
loops get a fifth of the updates.

{table}
"""


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
