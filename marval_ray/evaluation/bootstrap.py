"""Mean scores with errors over prompts: images of one prompt are alike, so that it is prompts that are drawn anew."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from marval_ray.evaluation.metrics import PROMPTS, REWARD, error_of

RESAMPLES = 2_000
"""The error of an error is about 1 / sqrt(2 RESAMPLES), 1.6 per cent."""


def mean_and_error(scores: Float[Tensor, " N"], prompts: Int64[Tensor, " N"]) -> tuple[float, float | None]:
    """Return the mean of N scores, and its standard error by the bootstrap over prompts; `prompts` are numbers of each score's.

    G prompts are drawn from the G that there are, with all scores of each, RESAMPLES times (Field and Welsh, 2007, the cluster
    bootstrap). Their variance is (G - 1) / G of that of an estimate, which is put right: of as many images a prompt the error is
    the standard deviation of the prompts' means over sqrt(G). None of a single prompt, which tells nothing of others.
    Scores of the same images by two models, subtracted, have the error of the paired difference.
    """
    _, groups, counts = prompts.unique(return_inverse=True, return_counts=True)
    double, images = scores.double(), counts.double()
    mean, count = double.mean().item(), len(counts)
    if count == 1:
        return mean, None
    sums = torch.zeros_like(images).index_add(0, groups, double - mean)  # of deviations: means of large scores would lose digits
    drawn = torch.randint(count, (RESAMPLES, count), generator=torch.Generator().manual_seed(0))
    means = sums[drawn].sum(1) / images[drawn].sum(1)
    return mean, means.std(correction=0).item() * (count / (count - 1)) ** 0.5


def reward_figures(scores: Mapping[str, Float[Tensor, " N"]], prompts: Int64[Tensor, " N"]) -> dict[str, Any]:
    """Return the mean score of each reward by its name in rows, its error beside it, and the number of prompts."""
    found: dict[str, Any] = {PROMPTS: len(prompts.unique())} if scores else {}
    for name, each in scores.items():
        found[REWARD + name], found[error_of(REWARD + name)] = mean_and_error(each, prompts)
    return found
