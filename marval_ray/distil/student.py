"""The one-step student, and what learns to denoise, as modules with one `forward`, which is what DeepSpeed wraps."""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from marval_ray.diffusion.schedule import cosine_diffusion
from marval_ray.distil.denoising import Noising, context_loss
from marval_ray.distil.reading import Read, z_of
from marval_ray.families.base import Backbone, Context


class Student(nn.Module):
    """G(n, c): all hidden tokens of a context in one shot."""

    def __init__(self, backbone: Backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, context: Any, noise: Float[Tensor, "N D"] | None = None) -> Float[Tensor, "N D"]:
        """Return x_0 of the hidden tokens of a `Context`, row by row, from n ~ N(0, I); of `Choices`, without n, log pi of all codes."""
        if noise is None:
            return context.log_probs(self.backbone)
        z = z_of(self.backbone, context)
        return self.backbone.one_step.predict(self.backbone.head, z, noise)


class Denoiser(nn.Module):
    """A teacher in training, on real tokens; or psi, the auxiliary network, which learns the student's score on the student's tokens."""

    def __init__(self, backbone: Backbone):
        super().__init__()
        self.backbone = backbone

    def forward(
        self, context: Context | Read, x_0: Float[Tensor, "B P D"], noising: Noising
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return (loss, metrics): plain containers, because DeepSpeed looks for tensors in what `forward` returns."""
        loss = context_loss(self.backbone, context, x_0, noising, cosine_diffusion(device=x_0.device))
        return loss.value, loss.metrics
