"""Keeps reinforcement learning honest: figures that no reward pays for decide how long a run goes on, and what it gives.

A reward curve alone shows success while the model is ruined. So held-out scores (Frechet distance, accuracy, diversity
within a class, recall) of fixed seeds are taken at times. The reward rises from update to update and the bands say how far
it may be followed: the result is the last student inside them. Out of them the run stops or goes back to that student.
"""

from dataclasses import dataclass, field
from typing import Any

from marval_ray.config import GuardConfig
from marval_ray.evaluation.metrics import ACCURACY, DIVERSITY, FD, RECALL
from marval_ray.evaluation.scores import Scores

AtLoops = tuple[Scores, ...]
"""At each of `GuardConfig.loops`."""


@dataclass
class Guard:
    """Remembers the scores before RL and those of the best student, the last inside the bands, which came at `best_step`."""

    config: GuardConfig
    start: AtLoops
    best: AtLoops = field(init=False)
    best_step: int = 0
    outside: int = 0

    def __post_init__(self) -> None:
        self.best = self.start

    def take(self, step: int, scores: AtLoops) -> bool:
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
        start, best = ([scores.known() for scores in of] for of in (self.start, self.best))
        return {"start": start, "best": best, "best_step": self.best_step, "outside": self.outside}

    @classmethod
    def of(cls, config: GuardConfig, state: dict[str, Any]) -> "Guard":
        """Return the guard whose `state` this is."""
        start, best = (tuple(Scores(**scores) for scores in state[name]) for name in ("start", "best"))
        guard = cls(config, start)
        guard.best, guard.best_step, guard.outside = best, state["best_step"], state["outside"]
        return guard

    def complaints(self, scores: AtLoops) -> list[str]:
        """Say what is outside its band, at which N_AR."""
        looks = zip(self.config.loops, self.start, scores, strict=True)
        return [f"{text} at N_AR = {loops}" for loops, start, now in looks for text in outside(self.config, start, now)]


def outside(c: GuardConfig, start: Scores, scores: Scores) -> list[str]:
    """Say which of `scores` are outside the bands around `start`."""
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
