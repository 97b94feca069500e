"""The two judges of samples: A's figures select, B's are only reported, so that nothing is chosen by what reports it."""

from dataclasses import dataclass
from math import isnan
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from jaxtyping import Float
from torch import Tensor

from marval_ray.evaluation.evaluators import load_evaluator
from marval_ray.evaluation.metrics import by_b, error_of
from marval_ray.evaluation.scores import Evaluator, check_count
from marval_ray.types import Prompts

Figures = dict[str, Any]
"""Numbers by name; None where images are too few to tell."""


@dataclass(frozen=True)
class Judges:
    """Evaluators that differ in architecture, seed, training crops and the layer of their features; B may be missing."""

    a: Evaluator
    b: Evaluator | None = None

    @classmethod
    def load(cls, a: tuple[Path, Path], b: tuple[Path | None, Path | None] = (None, None)) -> "Judges":
        """Read (classifier, reference statistics) of each. Raises ValueError when a file cannot be read."""
        classifier, reference = b
        return cls(load_evaluator(*a), load_evaluator(classifier, reference) if classifier and reference else None)

    def check(self, side: int, prompts: Prompts) -> None:
        """Raise ValueError unless each knows images of `side` x `side` pixels for these prompts."""
        for judge in (self.a, self.b):
            if judge is not None:
                judge.check(side, prompts)

    def score(self, images: Float[Tensor, "N C H W"], prompts: Prompts, sets: int = 1) -> Figures:
        """Return what A measures by the names of `Scores`, and what B measures with `_b` behind.

        The images are dealt out to `sets` of one size, prompt by prompt. Of several sets each figure is the mean, and its standard
        error stands beside it with `_se` behind. Raises ValueError as `Evaluator.score` does.
        """
        check_count(len(images), sets)
        size = len(images) // sets
        order = prompts.numbers.argsort(stable=True)
        hands = [order[i : size * sets : sets].sort().values for i in range(sets)]
        scored = [self._score(images[hand], prompts[hand.tolist()]) for hand in hands]
        return {"samples": size, "sets": sets, **over_sets(scored)}

    def _score(self, images: Tensor, prompts: Prompts) -> Figures:
        found = self.a.score(images, prompts).known()
        if self.b is not None:
            found |= {by_b(name): value for name, value in self.b.score(images, prompts).known().items()}
        return {name: told(value) for name, value in found.items() if not name.startswith("samples")}


def told(value: float) -> float | None:
    """Return None for NaN, which JSON does not have."""
    return None if isnan(value) else value


def over_sets(scored: list[Figures]) -> Figures:
    """Return the mean of each figure, and its standard error where there are several."""
    first, *others = scored
    if not others:
        return first
    found: Figures = {}
    for name in first:
        values = [figures[name] for figures in scored]
        found |= {name: None} if None in values else {name: fmean(values), error_of(name): stdev(values) / len(values) ** 0.5}
    return found
