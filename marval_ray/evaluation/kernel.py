"""The kernel distance between two sets of images (KID, where the features are Inception's)."""

from jaxtyping import Float, Float64
from torch import Tensor


def kernel_distance(real: Float[Tensor, "R F"], samples: Float[Tensor, "N F"]) -> float:
    """Return the unbiased estimate of the squared maximum mean discrepancy under k(x, y) = (x y / F + 1)^3
    (Binkowski et al., arXiv 1801.01401).

    Its mean does not depend on the numbers of images, and equal distributions give 0 on average: it may be negative.
    NaN when there are fewer than two of either.
    """
    if min(len(real), len(samples)) < 2:
        return float("nan")
    return (mean_of_pairs(real) + mean_of_pairs(samples) - 2 * kernel(real, samples).mean()).item()


def mean_of_pairs(features: Float[Tensor, "N F"]) -> Float64[Tensor, ""]:
    """Return the mean kernel of two different rows."""
    gram, count = kernel(features, features), len(features)
    return (gram.sum() - gram.trace()) / (count * (count - 1))


def kernel(a: Float[Tensor, "M F"], b: Float[Tensor, "N F"]) -> Float64[Tensor, "M N"]:
    """Return k of each row of `a` and each row of `b`."""
    return (a.double() @ b.double().T / a.shape[1] + 1) ** 3
