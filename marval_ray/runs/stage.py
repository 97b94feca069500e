"""The stages of a run: what each is called, which files it leaves in the run's folder, and how its metrics are read."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from marval_ray.evaluation.metrics import ACCURACY, FD, SPEED

STUDENT = "student.safetensors"
"""The student after the last stage of a run, whichever that is."""


@dataclass(frozen=True)
class Stage:
    """A stage of a run.

    name: in options, names of metrics and messages. title: in reports. learner: the part of the run's settings that its
    learner has. student, metrics, checkpoints, plot: files and folders in the run's folder. caption: of the plot. shown:
    metrics beside the progress bar, and what they are called there.
    """

    name: str
    title: str
    learner: str
    student: str
    metrics: str
    checkpoints: str
    plot: str
    caption: str
    shown: Mapping[str, str]

    @property
    def seconds(self) -> str:
        """What the stage took, as summary.json names it."""
        return f"seconds_{self.name}"

    @property
    def files(self) -> tuple[str, ...]:
        """What it leaves besides pictures."""
        return self.checkpoints, self.metrics, self.student


GSIM = Stage(
    name="gsim",
    title="distillation",
    learner="learner",
    student="student-gsim.safetensors",
    metrics="metrics.jsonl",
    checkpoints="train",
    plot="losses.png",
    caption="GSIM: losses; lines are running means.",
    shown={"generator/loss": "loss", "generator/l2": "l2", "auxiliary/mse": "aux", SPEED.name: "img/s"},
)
RL = Stage(
    name="rl",
    title="RL",
    learner="rl_learner",
    student=STUDENT,
    metrics="metrics-rl.jsonl",
    checkpoints="train-rl",
    plot="rl.png",
    caption="RL: reward, held-out figures and flow; lines are running means.",
    shown={"reward": "reward", "reward_std": "std", FD.held_out: FD.title, ACCURACY.held_out: "acc", SPEED.name: "img/s"},
)
STAGES = (GSIM, RL)
"""Of jobs/distill.py, in the order in which they run."""
TEACHER = Stage(
    name="teacher",
    title="training",
    learner="learner",
    student="teacher.safetensors",
    metrics="metrics-teacher.jsonl",
    checkpoints="train-teacher",
    plot="losses.png",
    caption="Losses of the teacher; lines are running means.",
    shown={"mse": "mse", SPEED.name: "img/s"},
)
"""Of jobs/train_teacher.py."""


def stages_of(names: str) -> tuple[Stage, ...]:
    """Return the stages that `--stages` names, such as "gsim,rl", or "teacher"."""
    by_name = {stage.name: stage for stage in (*STAGES, TEACHER)}
    return tuple(by_name[name] for name in names.split(","))


def rows_of(text: str) -> list[dict[str, float]]:
    """Return the rows of a metrics file's text; a last one that is not whole does not count."""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Read the rows of a metrics file: `step`, the finished updates, and metrics by name."""
    return rows_of(path.read_text(encoding="utf-8"))
