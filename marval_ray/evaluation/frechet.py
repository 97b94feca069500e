"""The Frechet distance between two sets of images (FID, where the features are Inception's)."""

import torch
from jaxtyping import Float64
from torch import Tensor

from marval_ray.evaluation.moments import Gaussian


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """Return |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) (Heusel et al., arXiv 1706.08500).

    The trace of the root is the sum of the roots of the eigenvalues of C_a C_b, which are those of the symmetric
    C_a^(1/2) C_b C_a^(1/2).
    """
    root = _symmetric_root(a.covariance)
    eigenvalues = torch.linalg.eigvalsh(root @ b.covariance @ root).clamp(min=0)
    gap = (a.mean - b.mean).square().sum()
    return (gap + a.covariance.trace() + b.covariance.trace() - 2 * eigenvalues.sqrt().sum()).item()


def _symmetric_root(matrix: Float64[Tensor, "F F"]) -> Float64[Tensor, "F F"]:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T
