"""The training loss of a backbone and its head over contexts: of a teacher on real tokens, of the auxiliary network on drawn ones."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from marval_ray.diffusion.loss import denoising_loss
from marval_ray.diffusion.schedule import TRAINING_STEPS, Diffusion
from marval_ray.distil.reading import Read, z_of
from marval_ray.families.base import Backbone, Context
from marval_ray.loss import Loss


@dataclass(frozen=True)
class Noising:
    """How N tokens are noised: timesteps t (0..999) and e ~ N(0, I)."""

    t: Int64[Tensor, " N"]
    noise: Float[Tensor, "N D"]

    @classmethod
    def draw(
        cls, tokens: int, channels: int, generator: torch.Generator, lowest: int = 0, highest: int = TRAINING_STEPS - 1
    ) -> "Noising":
        """Draw on the CPU, with t uniform in lowest..highest."""
        t = torch.randint(lowest, highest + 1, (tokens,), generator=generator)
        return cls(t, torch.randn(tokens, channels, generator=generator))

    def to(self, device: torch.device | str) -> "Noising":
        return Noising(self.t.to(device), self.noise.to(device))


def context_loss(
    backbone: Backbone, context: Context | Read, x_0: Float[Tensor, "B P D"], noising: Noising, diffusion: Diffusion
) -> Loss:
    """Return the loss of denoising `x_0` at the hidden positions of `context`; `noising` may have several draws (t, e) for each token.

    `x_0` are the real tokens for a teacher and detached student tokens for the auxiliary network (MAR, arXiv 2406.11838, section 3.2).
    """
    z, rows = z_of(backbone, context), x_0.flatten(0, 1)
    repeats = len(noising.t) // len(rows)
    return denoising_loss(backbone.head, rows.repeat(repeats, 1), z.repeat(repeats, 1), noising.t, noising.noise, diffusion)
