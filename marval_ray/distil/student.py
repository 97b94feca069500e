"""The one-step student and the auxiliary network as modules with one `forward`, which is what DeepSpeed wraps."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from marval_ray.diffusion.samplers import OneStep
from marval_ray.diffusion.schedule import cosine_diffusion
from marval_ray.families.mar.loss import context_loss
from marval_ray.families.mar.model import MAR
from marval_ray.types import Context


class Student(nn.Module):
    """G(n, c): all hidden tokens of a context in one shot."""

    def __init__(self, mar: MAR):
        super().__init__()
        self.mar = mar

    def forward(self, context: Context, noise: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        """x_0 of the hidden tokens, row by row, from noise n ~ N(0, I)."""
        z = self.mar(context.tokens, context.labels, context.known, context.hidden).flatten(0, 1)
        sampler = OneStep(self.mar.config.student_timestep)
        return sampler(self.mar.head, z, noise, noise[None, :0], revealed=1.0)


class Auxiliary(nn.Module):
    """psi: learns the student's score by MAR's own loss on the student's tokens."""

    def __init__(self, mar: MAR):
        super().__init__()
        self.mar = mar

    def forward(
        self, context: Context, x_0: Float[Tensor, "B P D"], repeats: int, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss, metrics); plain containers, because DeepSpeed looks for tensors in what `forward` returns."""
        diffusion = cosine_diffusion(device=x_0.device)
        loss = context_loss(self.mar, context, x_0, repeats, diffusion, generator)
        return loss.value, loss.metrics
