"""Masks: in training a random order and one ratio for the batch, in sampling a cosine (arXiv 2406.11838, section 4)."""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from marval_ray.families.mar.config import Masking
from marval_ray.families.mar.context import MARContext

RATIO_MIN, RATIO_MEAN, RATIO_STD = 0.7, 1.0, 0.25


def mask_ratio(masking: Masking, generator: torch.Generator) -> float:
    """Draw the share of tokens to hide, in (0, 1], by inverting its distribution function.

    "mar": N(1, 0.25^2) truncated to [0.7, 1]. "cosine": cos(pi/2 u) with u uniform in [0, 1), which is what is hidden before the
    loops of the sampling schedule (MaskGIT, arXiv 2202.04200, section 3.1).
    """
    u = torch.rand((), generator=generator, dtype=torch.float64).item()
    if masking == "cosine":
        return math.cos(math.pi / 2 * u)
    low = _normal_cdf((RATIO_MIN - RATIO_MEAN) / RATIO_STD)
    quantile = torch.tensor(low + (0.5 - low) * u, dtype=torch.float64)
    return min(1.0, RATIO_MEAN + RATIO_STD * torch.special.ndtri(quantile).item())


def mask_tokens(
    tokens: Float[Tensor, "B L D"], labels: Int64[Tensor, " B"], masking: Masking, generator: torch.Generator
) -> MARContext:
    """Hide ceil(ratio L) random positions of each image (CPU tensors)."""
    batch, length, _ = tokens.shape
    count = math.ceil(length * mask_ratio(masking, generator))
    orders = torch.rand(batch, length, generator=generator).argsort(dim=1)
    hidden, known = orders[:, :count].sort(dim=1).values, orders[:, count:].sort(dim=1).values
    return MARContext(tokens, labels, known, hidden)


def drop_labels(
    labels: Int64[Tensor, " B"], null_label: int, probability: float, generator: torch.Generator
) -> Int64[Tensor, " B"]:
    """Replace each label by the null class with `probability` (classifier-free guidance training)."""
    dropped = torch.rand(labels.shape, generator=generator) < probability
    return torch.where(dropped, null_label, labels)


def _normal_cdf(x: float) -> float:
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))


def hidden_after_loops(tokens: int, loops: int, reveal: float | None = None) -> list[int]:
    """Return how many of `tokens` are still hidden after each of `loops` AR loops: by the cosine of MaskGIT and MAR, or by 1 - u^reveal.

    Loop k leaves floor(L cos(pi/2 u)) or floor(L (1 - u^p)), u = (k+1)/K, but reveals at least one token and leaves at least one to
    the last loop, which leaves none. With more loops than tokens some loops reveal nothing.
    """
    if loops < 1:
        raise ValueError(f"the number of AR loops must be at least 1, got {loops}")
    hidden, after = tokens, []
    for k in range(loops - 1):
        cosine = math.cos(math.pi / 2 * (k + 1) / loops)  # rounded as MAR's own
        share = cosine if reveal is None else 1 - ((k + 1) / loops) ** reveal
        hidden = max(1, min(hidden - 1, math.floor(tokens * share)))
        after.append(hidden)
    return [*after, 0]
