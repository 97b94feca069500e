"""Mean and covariance of features that come in parts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64
from torch import Tensor


@runtime_checkable
class Gaussian(Protocol):
    """What the Frechet distance compares."""

    @property
    def mean(self) -> Float64[Tensor, " F"]: ...
    @property
    def covariance(self) -> Float64[Tensor, "F F"]: ...


@dataclass(frozen=True)
class Moments:
    """The number of rows, their mean, and the sum of the outer products of their deviations from it."""

    count: int
    mean: Float64[Tensor, " F"]
    scatter: Float64[Tensor, "F F"]

    @classmethod
    def of(cls, features: Float[Tensor, "N F"]) -> "Moments":
        double = features.double()
        mean = double.mean(0)
        centred = double - mean
        return cls(len(features), mean, centred.T @ centred)

    @classmethod
    def merged(cls, parts: Sequence["Moments"]) -> "Moments":
        """Return those of all rows of `parts` (Chan et al., Updating formulae, 1979); raw sums would lose digits."""
        count = sum(part.count for part in parts)
        mean = torch.stack([part.mean * (part.count / count) for part in parts]).sum(0)
        between = torch.stack([(part.mean - mean) * part.count**0.5 for part in parts])
        return cls(count, mean, torch.stack([part.scatter for part in parts]).sum(0) + between.T @ between)

    @property
    def covariance(self) -> Float64[Tensor, "F F"]:
        """The unbiased one."""
        return self.scatter / (self.count - 1)
