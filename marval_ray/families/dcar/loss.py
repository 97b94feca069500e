"""The loss of DC-AR's teacher: hidden codes and all residuals, from the same states of tokens (arXiv 2507.04947).

Its authors give neither the label smoothing nor the weight of given codes: these are MaskGIT's habit in 1D-Tokenizer.
"""

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from marval_ray.diffusion.loss import denoising_loss
from marval_ray.diffusion.schedule import Diffusion
from marval_ray.families.dcar.context import DCARContext
from marval_ray.families.dcar.model import DCAR
from marval_ray.loss import Loss

SMOOTHING = 0.1
GIVEN_WEIGHT = 0.1
"""Of codes that are not hidden; hidden ones have 1."""


def teacher_loss(model: DCAR, context: DCARContext, t: Int64[Tensor, " N"], noise: Float[Tensor, "N D"], diffusion: Diffusion) -> Loss:
    """Return the loss of codes plus that of residuals; t (0..999) and noise ~ N(0, 1) may have several draws for each token."""
    z, rows = model.conditions(context).float(), context.hidden_values().flatten(0, 1)
    repeats = len(t) // len(rows)
    codes = code_loss(model.logits(z.unflatten(0, context.codes.shape)).float(), context.codes, context.masked)
    return codes + denoising_loss(model.head, rows.repeat(repeats, 1), z.repeat(repeats, 1), t, noise, diffusion)


def code_loss(logits: Float[Tensor, "B L V"], codes: Int64[Tensor, "B L"], masked: Bool[Tensor, "B L"]) -> Loss:
    """Return the weighted mean of the smoothed cross-entropy of codes, and how often hidden ones are guessed right."""
    each = F.cross_entropy(logits.transpose(1, 2), codes, reduction="none", label_smoothing=SMOOTHING)
    weights = GIVEN_WEIGHT + (1 - GIVEN_WEIGHT) * masked.float()
    right = (logits.argmax(-1) == codes)[masked].float().mean()
    value = (weights * each).sum() / weights.sum()
    return Loss(value, {"codes": value.detach(), "right": right})
