"""The frozen dataclasses that cross the borders between modules, processes and machines."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor


@dataclass(frozen=True)
class Context:
    """What a model knows of a batch of real images: everything but the tokens at `hidden`.

    tokens: normalised latents, about N(0, 1); labels: 0..num_classes - 1, or num_classes for "no class".
    known and hidden: ascending positions; together they are all L of them.
    """

    tokens: Float[Tensor, "B L D"]
    labels: Int64[Tensor, " B"]
    known: Int64[Tensor, "B K"]
    hidden: Int64[Tensor, "B P"]

    def to(self, device: torch.device | str) -> "Context":
        return Context(*(value.to(device) for value in (self.tokens, self.labels, self.known, self.hidden)))

    def without_labels(self, null_label: int) -> "Context":
        """The same known tokens under the null class."""
        return Context(self.tokens, torch.full_like(self.labels, null_label), self.known, self.hidden)


@dataclass(frozen=True)
class Weights:
    """All parameters of a student in one buffer: float32, or bfloat16 as its bits (int16).

    version: the number of updates that made them; checksum: of the buffer's bits.
    """

    version: int
    buffer: Shaped[np.ndarray, " N"]
    checksum: int


@dataclass(frozen=True)
class Request:
    """Images to draw: image `indices[i]` of the run `seed`, of the class `labels[i]`."""

    seed: int
    indices: tuple[int, ...]
    labels: Int64[Tensor, " B"]


@dataclass(frozen=True)
class Rollout:
    """Images that a student drew. Orders and noise follow from (seed, index): `Draws.from_seed` gives them again.

    tokens: normalised latents; labels: 0..num_classes - 1; version: the number of the weights that drew them;
    checksum: of those weights.
    """

    tokens: Float[Tensor, "B L D"]
    labels: Int64[Tensor, " B"]
    seed: int
    indices: tuple[int, ...]
    version: int
    checksum: int

    def to(self, device: torch.device | str) -> "Rollout":
        return replace(self, tokens=self.tokens.to(device), labels=self.labels.to(device))


@dataclass(frozen=True)
class Drawn:
    """A rollout and the seconds it took."""

    rollout: Rollout
    seconds: float


@dataclass(frozen=True)
class Scored:
    """Rewards of a rollout's images, and d score / d tokens of each where the reward has a gradient."""

    score: Float[Tensor, " B"]
    gradient: Float[Tensor, "B L D"] | None

    def finite(self) -> Bool[Tensor, " B"]:
        """Which images have a usable score and gradient."""
        good = self.score.isfinite()
        return good if self.gradient is None else good & self.gradient.flatten(1).isfinite().all(1)


@dataclass(frozen=True)
class Delivery:
    """A scored rollout, and the seconds that drawing and scoring took."""

    rollout: Rollout
    scored: Scored
    rollout_seconds: float
    reward_seconds: float
