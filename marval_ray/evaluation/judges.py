"""The two judges of samples: A's figures select, B's are only reported, so that nothing is chosen by what reports it."""

from dataclasses import asdict, dataclass
from math import isnan
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from marval_ray.evaluation.metrics import by_b, error_of
from marval_ray.evaluation.scores import Evaluator, check_count

Figures = dict[str, Any]
"""Numbers by name; None where labels or images are too few to tell."""


@dataclass(frozen=True)
class Judges:
    """Evaluators that differ in architecture, seed, training crops and the layer of their features; B may be missing."""

    a: Evaluator
    b: Evaluator | None = None

    @classmethod
    def load(cls, a: tuple[Path, Path], b: tuple[Path | None, Path | None] = (None, None)) -> "Judges":
        """Read (classifier, reference statistics) of each. Raises ValueError when a file cannot be read."""
        classifier, reference = b
        return cls(Evaluator.load(*a), Evaluator.load(classifier, reference) if classifier and reference else None)

    def score(self, images: Float[Tensor, "N C H W"], labels: Int64[Tensor, " N"] | None, sets: int = 1) -> Figures:
        """Return what A measures by the names of `Scores`, and what B measures with `_b` behind.

        The images are dealt out to `sets` of one size, class by class. Of several sets each figure is the mean, and its standard
        error stands beside it with `_se` behind. Raises ValueError as `Evaluator.score` does.
        """
        check_count(len(images), sets)
        size = len(images) // sets
        order = torch.arange(len(images)) if labels is None else labels.argsort(stable=True)
        hands = [order[i : size * sets : sets].sort().values for i in range(sets)]
        scored = [self._score(images[hand], None if labels is None else labels[hand]) for hand in hands]
        return {"samples": size, "sets": sets, **over_sets(scored)}

    def _score(self, images: Tensor, labels: Tensor | None) -> Figures:
        found = asdict(self.a.score(images, labels))
        if self.b is not None:
            found |= {by_b(name): value for name, value in asdict(self.b.score(images, labels)).items()}
        return {name: known(value) for name, value in found.items() if not name.startswith("samples")}


def known(value: float | None) -> float | None:
    """Return None for NaN, which JSON does not have."""
    return None if value is None or isnan(value) else value


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
