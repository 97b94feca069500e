"""DC-AR's masks: of all codes arccos(u) / (pi / 2) are hidden, where u is uniform in training and the share of loops done in sampling."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def training_mask(u: Float[Tensor, " B"], places: Float[Tensor, "B L"]) -> Bool[Tensor, "B L"]:
    """Tell which codes to hide, at least one an image; u and places: uniform in [0, 1)."""
    shares = torch.arccos(u) / (math.pi / 2)
    counts = (places.shape[1] * shares).round().clamp(min=1)
    return places.argsort(dim=1) < counts[:, None]


def hidden_after_loops(tokens: int, loops: int) -> list[int]:
    """Return how many of `tokens` codes are still hidden after each of `loops` loops.

    Each loop but the last leaves one at least, and with more loops than tokens some loops reveal nothing.
    """
    if loops < 1:
        raise ValueError(f"the number of AR loops must be at least 1, got {loops}")
    hidden, after = tokens, []
    for k in range(loops - 1):
        share = math.acos((k + 1) / loops) / (math.pi / 2)
        hidden = max(1, min(hidden - 1, math.floor(tokens * share)))
        after.append(hidden)
    return [*after, 0]
