"""Measure docs/over-optimisation.md: what both judges see of a student that follows its reward too far, and what the guard would keep.

One run of RL for each variant, from the embedded student between the stages, with bands that let everything pass. The averaged student
of each checkpoint is scored afterwards, on samples that no run has seen.
"""

import json
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from records import DEFAULT, JOB, Settings, flags_of, slug, write
from safetensors.torch import load_file
from tables import SHORT as COLUMNS

from marval_ray import cli
from marval_ray.embedded import assets_index
from marval_ray.embedded.shipped_judges import CLOTHES
from marval_ray.evaluation.judges import Figures, Judges
from marval_ray.evaluation.metrics import BY_JUDGE, DIVERSITY, FD, by_b, error_of, markdown_table
from marval_ray.evaluation.scores import Scores
from marval_ray.families.generation import student_generation
from marval_ray.files.tensors import StateDict
from marval_ray.reinforce.guard import Guard
from marval_ray.runs.report.plots import running_mean
from marval_ray.runs.stage import RL, read_metrics
from marval_ray.types import Prompts

VARIANTS: dict[str, Settings] = {
    "default": {},
    "the reward alone": {"rl.drift_weight": 0.0, "rl.class_drift_weight": 0.0},
}
OPEN: Settings = {"guard.max_fd": 1e9, "guard.min_diversity": 0.0, "guard.min_recall": 0.0, "guard.max_accuracy_loss": 1.0}


@dataclass(frozen=True)
class Config:
    out: Path = Path("runs/over-optimisation")
    document: Path = Path("docs/over-optimisation.md")
    student: Path = assets_index.GSIM_STUDENT
    updates: int = 104
    every: int = 13
    """Updates between two students that are scored."""
    samples: int = 500
    """Of each of `sets` sets."""
    sets: int = 3
    seed: int = 5_000


@dataclass(frozen=True)
class Course:
    """figures: of the student after so many updates. rewards: of each update, in standard deviations of the first. kept: by the guard."""

    title: str
    figures: dict[int, Figures]
    rewards: np.ndarray
    kept: int


def main(config: Config) -> None:
    judges = Judges.load(*CLOTHES)
    courses = [course(title, options, judges, config) for title, options in VARIANTS.items()]
    picture = config.document.parent / "images/over-optimisation.png"
    plot(picture, courses)
    write(config.document, TEXT.format(
        updates=config.updates, samples=config.samples, sets=config.sets, table=markdown_table(
            ["", "updates", "reward, SD", *(BY_JUDGE[name].title for name in COLUMNS)],
            [line for one in courses for line in lines(one, config.every)],
        ),
    ))  # fmt: skip


def course(title: str, options: Settings, judges: Judges, config: Config) -> Course:
    out = config.out / slug(title)
    students = followed(out, options, config)
    figures = {step: scored(student, judges, config) for step, student in sorted(students.items())}
    rows = read_metrics(out / RL.metrics)
    rewards = np.array([row["reward"] - rows[0]["reward"] for row in rows]) / rows[0]["reward_std"]
    return Course(title, figures, rewards, kept_by_guard(figures))


def followed(out: Path, options: Settings, config: Config) -> dict[int, StateDict]:
    """Run RL; return the averaged student before it and at each checkpoint, of which a run keeps but two."""
    settings = OPEN | options | {
        "student": config.student, "rl_learner.steps": config.updates, "rl_learner.checkpoint_every": config.every,
        "guard.every": config.updates, "figures.teacher": None, "figures.loops": DEFAULT.rl.loops, "figures.sets": 1,
    }  # fmt: skip
    students = {0: load_file(config.student)}
    process = subprocess.Popen([sys.executable, JOB, "--out", out, "--stages", RL.name, "--overwrite", *flags_of(settings)])
    while process.poll() is None:
        time.sleep(2)
        collect(checkpoints(out)[:-1], students)  # the last one may not be whole yet
    if process.returncode:
        raise ValueError(f"the run in {out} ended with code {process.returncode}")
    collect(checkpoints(out), students)
    return students


def checkpoints(out: Path) -> list[Path]:
    """Return the folders of those of a run's checkpoints that are there, in their order."""
    return sorted(progress.parent for progress in (out / RL.checkpoints).glob("checkpoint_*/progress.json"))


def collect(folders: list[Path], students: dict[int, StateDict]) -> None:
    for folder in folders:
        step = json.loads((folder / "progress.json").read_text(encoding="utf-8"))["step"]
        students.setdefault(step, load_file(folder / "ema.safetensors"))


def scored(student: StateDict, judges: Judges, config: Config) -> Figures:
    model = DEFAULT.model.family.load(student, DEFAULT.model, "a student of RL").eval()
    codec = DEFAULT.model.family.codec(assets_index.VAE, DEFAULT.model)
    prompts = Prompts.classes_in_turn(DEFAULT.model.num_classes, config.samples * config.sets)
    images = student_generation(model, codec, DEFAULT.rl.loops[0]).images(prompts, config.seed, progress="samples")
    return judges.score(images, prompts, config.sets)


def kept_by_guard(figures: dict[int, Figures]) -> int:
    """Return after how many updates the default guard would have kept the student: the last inside its bands before patience ends."""
    looks = {step: (scores_of(row),) for step, row in figures.items()}
    guard = Guard(replace(DEFAULT.guard, loops=DEFAULT.rl.loops[:1]), looks.pop(0))
    for step, scores in looks.items():
        if guard.exhausted:
            break
        guard.take(step, scores)
    return guard.best_step


def scores_of(row: Figures) -> Scores:
    return Scores(**{name: row[name] for name in Scores.__dataclass_fields__ if name in row})


def lines(one: Course, every: int) -> list[list[str]]:
    """Return the rows of a course in the table; the guard's choice has a star."""
    rewards = running_mean(one.rewards, every)
    return [
        [
            one.title + (" *" if step == one.kept else ""), str(step), f"{rewards[step - 1]:+.2f}" if step else "0",
            *(BY_JUDGE[name].text(row[name], row[error_of(name)]) for name in COLUMNS),
        ]
        for step, row in one.figures.items()
    ]  # fmt: skip


def plot(path: Path, courses: list[Course]) -> None:
    """Plot reward, FD by each judge and diversity over the updates of each course, with what the guard keeps as a ring."""
    panels: tuple[tuple[str, str], ...] = (
        ("reward, standard deviations", ""), ("FD (A)", FD.name), ("FD (B)", by_b(FD.name)), ("diversity", DIVERSITY.name)
    )  # fmt: skip
    figure = Figure((4.0 * len(panels), 3.4), layout="constrained")
    for axis, (title, name) in zip(figure.subplots(1, len(panels)), panels):
        for number, one in enumerate(courses):
            colour = f"C{number}"
            if not name:
                axis.plot(range(1, len(one.rewards) + 1), running_mean(one.rewards, 6), color=colour, label=one.title)
                continue
            points = {step: row[name] for step, row in one.figures.items()}
            errors = [row[error_of(name)] for row in one.figures.values()]
            axis.errorbar([*points], [*points.values()], errors, color=colour, marker="o", markersize=4)
            axis.plot([one.kept], [points[one.kept]], "o", markersize=11, markerfacecolor="none", color=colour)
        axis.set_title(title, fontsize=10, loc="left")
        axis.set_xlabel("updates of RL", fontsize=9)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    print(path)


TEXT = """# Where a reward leads a student astray

Made by `python bench/over_optimisation.py` on 2 CPU cores. RL on the embedded reward for {updates} updates, twice as long as the
default, with bands of the guard that let everything pass: once with the default's prices on drifting, once on the reward alone, as in
the paper. The averaged students on the way are scored on {sets} sets of {samples} new samples, at the rollouts' N_AR. The reward knows
neither judge, and nothing reads B. A star, and a ring in the picture, is the student that the default guard would have kept of these
looks, by judge A's figures.

![Reward, FD by both judges and diversity over the updates](images/over-optimisation.png)

{table}
"""

if __name__ == "__main__":
    cli.run(main, Config, __doc__)
