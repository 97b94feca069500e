"""What MAR is told of a batch of images."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from marval_ray.positions import gather_tokens


@dataclass(frozen=True)
class MARContext:
    """Everything but the tokens at `hidden`.

    tokens: normalised latents, about N(0, 1); labels: 0..num_classes - 1, or num_classes for "no class".
    known and hidden: ascending positions; in training they are all L of them together.
    """

    tokens: Float[Tensor, "B L D"]
    labels: Int64[Tensor, " B"]
    known: Int64[Tensor, "B K"]
    hidden: Int64[Tensor, "B P"]

    def to(self, device: torch.device | str) -> "MARContext":
        return MARContext(*(value.to(device) for value in self._parts()))

    def hidden_values(self) -> Float[Tensor, "B P D"]:
        """Return the tokens at the hidden positions, the real ones in training."""
        return gather_tokens(self.tokens, self.hidden)

    def with_values(self, values: Float[Tensor, "B L D"]) -> "MARContext":
        """Return the same places with other tokens."""
        return MARContext(values, self.labels, self.known, self.hidden)

    def with_label(self, label: int) -> "MARContext":
        """Return the same tokens, all under one label."""
        return MARContext(self.tokens, torch.full_like(self.labels, label), self.known, self.hidden)

    def followed_by(self, other: "MARContext") -> "MARContext":
        """Return one batch of both."""
        return MARContext(*(torch.cat(pair) for pair in zip(self._parts(), other._parts(), strict=True)))

    def _parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.tokens, self.labels, self.known, self.hidden
