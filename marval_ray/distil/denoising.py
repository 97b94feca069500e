"""The training loss of a backbone and its head over contexts: of a teacher on real tokens, of the auxiliary network on drawn ones."""

import torch
from jaxtyping import Float
from torch import Tensor

from marval_ray.diffusion.loss import denoising_loss
from marval_ray.diffusion.schedule import Diffusion
from marval_ray.families.base import Backbone, Context
from marval_ray.loss import Loss


def context_loss(
    backbone: Backbone, context: Context, x_0: Float[Tensor, "B P D"], repeats: int, diffusion: Diffusion,
    generator: torch.Generator,
) -> Loss:  # fmt: skip
    """Return the loss of denoising `x_0` at the hidden positions of `context`, `repeats` draws of (t, e) a token.

    `x_0` are the real tokens for a teacher and detached student tokens for the auxiliary network. Draws come from
    the CPU `generator` (MAR, arXiv 2406.11838, section 3.2).
    """
    device = x_0.device
    z = backbone.conditions(context)
    rows = x_0.flatten(0, 1).repeat(repeats, 1)
    t = torch.randint(len(diffusion), (len(rows),), generator=generator).to(device)
    noise = torch.randn(rows.shape, generator=generator).to(device)
    return denoising_loss(backbone.head, rows, z.repeat(repeats, 1), t, noise, diffusion)
