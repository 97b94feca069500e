"""Keeps reinforcement learning honest: figures that no reward pays for decide how long a run goes on, and what it gives.

A reward curve alone shows success while the model is ruined. So held-out scores (Frechet distance, accuracy, diversity
within a class, recall) of fixed seeds are taken at times. The reward rises from update to update and the bands say how far
it may be followed: the result is the last student inside them. Out of them the run stops or goes back to that student.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from marval_ray.config import GuardConfig
from marval_ray.evaluation.metrics import ACCURACY, DIVERSITY, FD, RECALL
from marval_ray.evaluation.scores import Scores


@dataclass
class Guard:
    """Remembers the scores before RL and those of the best student, the last inside the bands, which came at `best_step`."""

    config: GuardConfig
    start: Scores
    best: Scores = field(init=False)
    best_step: int = 0
    outside: int = 0

    def __post_init__(self) -> None:
        self.best = self.start

    def take(self, step: int, scores: Scores) -> bool:
        """Take in the scores after `step` updates; tell whether this student is the best so far."""
        if self.complaints(scores):
            self.outside += 1
            return False
        self.best, self.best_step, self.outside = scores, step, 0
        return True

    @property
    def exhausted(self) -> bool:
        """Whether the scores have been outside their bands for `patience` looks in a row."""
        return self.outside >= self.config.patience

    def state(self) -> dict[str, Any]:
        """Return what JSON can keep; `Guard.of` reads it."""
        return {"start": asdict(self.start), "best": asdict(self.best), "best_step": self.best_step, "outside": self.outside}

    @classmethod
    def of(cls, config: GuardConfig, state: dict[str, Any]) -> "Guard":
        """Return the guard whose `state` this is."""
        guard = cls(config, Scores(**state["start"]))
        guard.best, guard.best_step, guard.outside = Scores(**state["best"]), state["best_step"], state["outside"]
        return guard

    def complaints(self, scores: Scores) -> list[str]:
        """Say what is outside its band."""
        c, start = self.config, self.start
        found = []
        if scores.fd > c.max_fd * start.fd:
            found.append(f"{FD.said(scores.fd)} is above {c.max_fd} x {FD.text(start.fd)}")
        if scores.diversity is not None and start.diversity is not None and scores.diversity < c.min_diversity * start.diversity:
            found.append(f"{DIVERSITY.said(scores.diversity)} is below {c.min_diversity} x {DIVERSITY.text(start.diversity)}")
        if scores.recall < c.min_recall * start.recall:
            found.append(f"{RECALL.said(scores.recall)} is below {c.min_recall} x {RECALL.text(start.recall)}")
        if scores.accuracy is not None and start.accuracy is not None and scores.accuracy < start.accuracy - c.max_accuracy_loss:
            found.append(f"{ACCURACY.said(scores.accuracy)} is more than {c.max_accuracy_loss} below {ACCURACY.text(start.accuracy)}")
        return found
