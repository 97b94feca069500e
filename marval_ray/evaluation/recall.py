"""Recall: how much of the real images the samples reach."""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor


def recall(real: Float[Tensor, "R F"], samples: Float[Tensor, "N F"], neighbours: int = 3) -> float:
    """Return the share of real features no farther from some sample than that sample's third nearest neighbour among the samples
    (Kynkaanniemi et al., arXiv 1904.06991).

    NaN when there are not enough samples to have such a neighbour. Distances are summed from differences: those from
    matrix products lose all digits where features have a large mean.
    """
    if len(samples) <= neighbours:
        return float("nan")
    distances = partial(torch.cdist, compute_mode="donot_use_mm_for_euclid_dist")
    radii = distances(samples, samples).kthvalue(neighbours + 1).values  # the first is the sample itself
    return (distances(real, samples) <= radii).any(-1).double().mean().item()
