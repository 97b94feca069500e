"""The kernel distance between two sets of images (KID, where the features are Inception's)."""

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor


def kernel_distance(
    real: Float[Tensor, "R F"], samples: Float[Tensor, "N F"],
    real_labels: Int64[Tensor, " R"] | None = None, labels: Int64[Tensor, " N"] | None = None,
) -> float:  # fmt: skip
    """Return the unbiased estimate of the squared maximum mean discrepancy under k(x, y) = (x y / F + 1)^3
    (Binkowski et al., arXiv 1801.01401).

    Its mean does not depend on the numbers of images, and equal distributions give 0 on average: it may be negative. NaN when a
    side has a class of one image. Labels are for sides whose number of images of each class was fixed, as when classes are asked
    for in turn: pairs of one class are then too rare among pairs of different images.
    """
    return (mean_of_pairs(real, real_labels) + mean_of_pairs(samples, labels) - 2 * kernel(real, samples).mean()).item()


def kernel_distance_of_subsets(
    real: Float[Tensor, "R F"], samples: Float[Tensor, "N F"], subsets: int = 100, size: int = 1_000
) -> tuple[float, float]:
    """Return mean and standard deviation of the kernel distance of random subsets, those that torch-fidelity draws.

    NaN when a side has fewer images than a subset.
    """
    if min(len(real), len(samples)) < size:
        return float("nan"), float("nan")
    random = np.random.RandomState(2020)
    found = []
    for _ in range(subsets):
        some = samples[random.choice(len(samples), size, replace=False)]
        found.append(kernel_distance(real[random.choice(len(real), size, replace=False)], some))
    return float(np.mean(found)), float(np.std(found))


def mean_of_pairs(features: Float[Tensor, "N F"], labels: Int64[Tensor, " N"] | None = None) -> Float64[Tensor, ""]:
    """Return the mean kernel of two independent images whose classes have the shares that they have here.

    Pairs of one class are those of two different images; each counts n / (n - 1) for the pairs of an image with itself.
    """
    if labels is None:
        labels = torch.zeros(len(features), dtype=torch.long)
    gram, count = kernel(features, features).fill_diagonal_(0), labels.bincount().double()[labels]
    weight = torch.where(labels[:, None] == labels, count / (count - 1), 1.0)
    return (gram * weight).mean() if count.min() > 1 else torch.tensor(float("nan"), dtype=torch.float64)


def kernel(a: Float[Tensor, "M F"], b: Float[Tensor, "N F"]) -> Float64[Tensor, "M N"]:
    """Return k of each row of `a` and each row of `b`."""
    return (a.double() @ b.double().T / a.shape[1] + 1) ** 3
