"""The recorded randomness of images: an address, from which the same numbers come whenever they are asked for."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Draws:
    """All randomness of the images `indices` of the run `seed`: that of an image depends on (seed, index) alone.

    Nothing lies in memory until it is drawn. Seeds and indices are in 0..2^63 - 1.
    group: images i and j start alike where i // group = j // group: all but the noise that a sampler adds on its way is the same.
    """

    seed: int
    indices: tuple[int, ...]
    group: int = 1

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, rows: slice) -> "Draws":
        return replace(self, indices=self.indices[rows])

    @classmethod
    def cat(cls, parts: Sequence["Draws"]) -> "Draws":
        """Put the images of one run together, in their order."""
        return replace(parts[0], indices=sum((part.indices for part in parts), ()))

    @property
    def starts(self) -> "Draws":
        """The first image of each one's group, whose start it has."""
        return Draws(self.seed, tuple(index - index % self.group for index in self.indices))

    def generators(self) -> list[torch.Generator]:
        """Return a fresh CPU generator for each image. The odd multiplier keeps different pairs apart."""
        return [torch.Generator().manual_seed((self.seed * 0x9E3779B97F4A7C15 + index) % 2**63) for index in self.indices]

    def noise(self, purpose: str, step: int, shape: tuple[int, ...]) -> Float[Tensor, "B *shape"]:
        """Draw N(0, 1) of `shape` for each image, on the CPU: a stream of its own for each purpose and step."""
        return torch.stack([torch.randn(shape, generator=self._stream(index, purpose, step)) for index in self.indices])

    def uniform(self, purpose: str, step: int, shape: tuple[int, ...]) -> Float[Tensor, "B *shape"]:
        """Draw U[0, 1) of `shape` for each image, as `noise` does."""
        return torch.stack([torch.rand(shape, generator=self._stream(index, purpose, step)) for index in self.indices])

    def _stream(self, index: int, purpose: str, step: int) -> torch.Generator:
        digest = hashlib.sha256(f"{self.seed} {index} {purpose} {step}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") % 2**63)


def rank_generator(seed: int, step: int, index: int, rank: int) -> torch.Generator:
    """Return a CPU generator for draw number `index` of update `step` on one rank of a learner."""
    (mixed,) = np.random.SeedSequence((seed, step, index, rank)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(mixed))
