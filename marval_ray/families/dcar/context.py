"""What DC-AR is told of a batch of images."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from marval_ray.positions import gather_tokens


@dataclass(frozen=True)
class TextStates:
    """Prompts as the text encoder reads them. real: which of the T tokens are no padding."""

    states: Float[Tensor, "B T S"]
    real: Bool[Tensor, "B T"]

    def to(self, device: torch.device | str) -> "TextStates":
        return TextStates(self.states.to(device), self.real.to(device))

    @classmethod
    def cat(cls, parts: Sequence["TextStates"]) -> "TextStates":
        """Put batches together, in their order."""
        return cls(torch.cat([part.states for part in parts]), torch.cat([part.real for part in parts]))

    def followed_by(self, other: "TextStates") -> "TextStates":
        """Return one batch of both."""
        return TextStates.cat([self, other])


@dataclass(frozen=True)
class DCARContext:
    """Codes and texts; everything but the residuals at `hidden`.

    codes: 0..num_codes - 1. masked: codes that are hidden too. values: residuals divided by the model's scale, about N(0, 1).
    hidden: positions whose residuals are to be drawn, which are all, in order: the model sees no residual.
    left_out: images whose text the model is not told.
    """

    codes: Int64[Tensor, "B L"]
    masked: Bool[Tensor, "B L"]
    text: TextStates
    values: Float[Tensor, "B L D"]
    hidden: Int64[Tensor, "B P"]
    left_out: Bool[Tensor, " B"]

    @classmethod
    def of(
        cls, codes: Int64[Tensor, "B L"], masked: Bool[Tensor, "B L"], text: TextStates, values: Float[Tensor, "B L D"]
    ) -> "DCARContext":
        """Hide all residuals, and leave out no text."""
        everywhere = torch.arange(codes.shape[1], device=codes.device).expand(len(codes), -1)
        return cls(codes, masked, text, values, everywhere, torch.zeros(len(codes), dtype=torch.bool, device=codes.device))

    def to(self, device: torch.device | str) -> "DCARContext":
        return DCARContext(*(getattr(self, part.name).to(device) for part in fields(self)))

    def hidden_values(self) -> Float[Tensor, "B P D"]:
        """Return the values at the hidden positions, the real ones in training."""
        return gather_tokens(self.values, self.hidden)

    def with_values(self, values: Float[Tensor, "B L D"]) -> "DCARContext":
        """Return the same codes and texts with other values."""
        return replace(self, values=values)
