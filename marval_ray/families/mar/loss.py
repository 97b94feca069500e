"""MAR's training loss over contexts (arXiv 2406.11838, section 3.2)."""

import torch
from jaxtyping import Float
from torch import Tensor

from marval_ray.diffusion.loss import denoising_loss
from marval_ray.diffusion.schedule import Diffusion
from marval_ray.families.mar.model import MAR
from marval_ray.loss import Loss
from marval_ray.types import Context


def context_loss(
    model: MAR, context: Context, x_0: Float[Tensor, "B P D"], repeats: int, diffusion: Diffusion,
    generator: torch.Generator,
) -> Loss:  # fmt: skip
    """MAR's training loss: denoise `x_0` at the hidden positions of `context`, `repeats` draws of (t, e) a token.

    `x_0` are the real tokens for a teacher and detached student samples for the auxiliary network. Draws come from
    the CPU `generator`.
    """
    device = x_0.device
    z = model(context.tokens.to(model.mask_token.dtype), context.labels, context.known, context.hidden).flatten(0, 1)
    rows = x_0.flatten(0, 1).repeat(repeats, 1)
    t = torch.randint(len(diffusion), (len(rows),), generator=generator).to(device)
    noise = torch.randn(rows.shape, generator=generator).to(device)
    return denoising_loss(model.head, rows, z.repeat(repeats, 1), t, noise, diffusion)
