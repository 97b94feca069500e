"""Precision and recall: how many samples look real, and how much of the real images the samples reach."""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Float64
from torch import Tensor

NEIGHBOURS = 3
BLOCK = 500
"""Rows whose distances to all others are in memory at once."""


def precision(real: Float[Tensor, "R F"], samples: Float[Tensor, "N F"]) -> float:
    """Return the share of samples no farther from some real image than that one's third nearest neighbour among the real ones
    (Kynkaanniemi et al., arXiv 1904.06991). NaN when there are not enough real ones to have such a neighbour.
    """
    return _share_inside(samples, real)


def recall(real: Float[Tensor, "R F"], samples: Float[Tensor, "N F"]) -> float:
    """Return the share of real images no farther from some sample than that one's third nearest neighbour among the samples.

    NaN when there are not enough samples to have such a neighbour.
    """
    return _share_inside(real, samples)


def _share_inside(points: Float[Tensor, "P F"], centres: Float[Tensor, "M F"]) -> float:
    """Return the share of `points` in the ball of some centre, which reaches to its third neighbour among the centres."""
    if len(centres) <= NEIGHBOURS:
        return float("nan")
    # Squares in double precision around the mean: products of features with a large mean would leave no digits.
    origin = centres.double().mean(0)
    points, centres = points.double() - origin, centres.double() - origin
    nearest = [block.topk(NEIGHBOURS + 1, largest=False).values[:, -1] for block in _squares(centres, centres)]  # one is itself
    radii = torch.cat(nearest)
    inside = [(block <= radii).any(1) for block in _squares(points, centres)]
    return torch.cat(inside).double().mean().item()


def _squares(a: Float64[Tensor, "M F"], b: Float64[Tensor, "N F"]) -> Iterator[Float64[Tensor, "_ N"]]:
    """Yield the squared distances of some rows of `a` to all of `b`."""
    lengths = b.square().sum(1)
    for rows in a.split(BLOCK):
        yield (rows.square().sum(1, keepdim=True) + lengths - 2 * rows @ b.T).clamp(min=0)
