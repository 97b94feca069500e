"""Statistics of features, and the distances between them that scores are made of."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float, Float64, Int64
from safetensors.torch import save_file
from torch import Tensor

from marval_ray.files.atomic import atomic_path
from marval_ray.files.tensors import read_state

KEPT = 2000
"""Features that statistics keep."""


@dataclass(frozen=True)
class Statistics:
    """Moments of features, the mean distance between two images of one class, and the features of 2,000 random images."""

    mean: Float64[Tensor, " F"]
    covariance: Float64[Tensor, "F F"]
    within_class_distance: float
    features: Float[Tensor, "R F"]

    @classmethod
    def of(cls, features: Float[Tensor, "N F"], labels: Int64[Tensor, " N"] | None) -> "Statistics":
        """Take them of images; without labels the distance within a class is NaN."""
        double = features.double()
        distance = float("nan") if labels is None else within_class_distance(double, labels)
        kept = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))[:KEPT]
        return cls(double.mean(0), double.T.cov(), distance, features[kept].float())

    @classmethod
    def load(cls, path: Path) -> "Statistics":
        """Read them from a file. Raises ValueError when `path` is not what `save` wrote."""
        state = read_state(path)
        missing = sorted({"mean", "covariance", "within_class_distance", "features"} - state.keys())
        if missing:
            raise ValueError(f"{path} lacks {missing}: it is not a file of reference statistics")
        return cls(state["mean"], state["covariance"], state["within_class_distance"].item(), state["features"].float())

    def save(self, path: Path) -> None:
        distance = torch.tensor(self.within_class_distance, dtype=torch.float64)
        moments = {"mean": self.mean, "covariance": self.covariance, "within_class_distance": distance}
        with atomic_path(path) as temporary:
            save_file(moments | {"features": self.features}, temporary)


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """Return |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) (Heusel et al., arXiv 1706.08500).

    The trace of the root is the sum of the roots of the eigenvalues of C_a C_b, which are those of the symmetric
    C_a^(1/2) C_b C_a^(1/2).
    """
    root = _symmetric_root(a.covariance)
    eigenvalues = torch.linalg.eigvalsh(root @ b.covariance @ root).clamp(min=0)
    gap = (a.mean - b.mean).square().sum()
    return (gap + a.covariance.trace() + b.covariance.trace() - 2 * eigenvalues.sqrt().sum()).item()


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


def within_class_distance(features: Float64[Tensor, "N F"], labels: Int64[Tensor, " N"]) -> float:
    """Return the mean Euclidean distance between two different images of one class, classes weighted equally.

    At most 1,000 images of a class count. NaN when no class has two images.
    """
    distances = [torch.pdist(part).mean() for part in _by_class(features, labels) if len(part) > 1]
    return torch.stack(distances).mean().item() if distances else float("nan")


def _by_class(features: Float64[Tensor, "N F"], labels: Int64[Tensor, " N"]) -> Iterator[Float64[Tensor, "_ F"]]:
    for label in labels.unique():
        yield features[labels == label][:1000]


def _symmetric_root(matrix: Float64[Tensor, "F F"]) -> Float64[Tensor, "F F"]:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T
