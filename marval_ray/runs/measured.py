"""What a run measures of its models, and the names that this has in summary.json."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from marval_ray.evaluation.metrics import BY_JUDGE, FD, SPEED, error_of
from marval_ray.evaluation.sweep import Row

LOOPS = "n_ar"
NAMES = tuple(name for figure in BY_JUDGE for name in (figure, error_of(figure)))
"""What is kept of a row, where it has it."""
TITLES = {
    ("teacher", ""): "Teacher, best setting",
    ("student", "before"): "Student before",
    ("student", "before_rl"): "Student before RL",
    ("student", ""): "Final student",
}
"""What a run measures, by model and moment: no moment is the end of the run."""


@dataclass(frozen=True)
class Measured:
    """A model at a moment of TITLES. loops: N_AR, which early summaries lack. scores: by name of a metric. speed: images/s."""

    model: str
    when: str
    loops: int | None
    scores: Mapping[str, float]
    speed: float

    @classmethod
    def of(cls, row: Row, model: str, when: str = "") -> "Measured":
        """Take it from a row of a sweep."""
        scores = {name: row[name] for name in NAMES if row.get(name) is not None}
        return cls(model, when, loops=row[LOOPS], scores=scores, speed=row[SPEED.name])

    def flat(self) -> dict[str, Any]:
        """Return it by the names of summary.json."""
        values = {**self.scores, SPEED.name: self.speed, LOOPS: self.loops}
        return {flat_name(self.model, key, self.when): value for key, value in values.items()}


def measured_in(summary: Mapping[str, Any]) -> dict[tuple[str, str], Measured]:
    """Read what `Measured.flat` wrote into a summary, by model and moment."""
    return {key: _read(summary, *key) for key in TITLES if flat_name(key[0], FD.name, key[1]) in summary}


def _read(summary: Mapping[str, Any], model: str, when: str) -> Measured:
    found: dict[str, Any] = {key: summary.get(flat_name(model, key, when)) for key in (*NAMES, SPEED.name, LOOPS)}
    scores = {name: found[name] for name in NAMES if found[name] is not None}
    return Measured(model, when, loops=found[LOOPS], scores=scores, speed=found[SPEED.name])


def flat_name(model: str, key: str, when: str) -> str:
    """Return a name such as student_fd_before_rl."""
    return "_".join(part for part in (model, key, when) if part)


def final_loops(summary: Mapping[str, Any]) -> int | None:
    """Return N_AR of the final student's figures, None where it has none."""
    return summary.get(flat_name("student", LOOPS, ""))


def gain(summary: Mapping[str, float], name: str = "reward") -> float:
    """Return what RL added to the mean of a reward, in standard deviations of an image's reward before."""
    return (summary[f"{name}_after"] - summary[f"{name}_before"]) / summary[f"{name}_before_std"]
