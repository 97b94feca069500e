"""Statistics of features, which tell a set of images from another."""

from collections.abc import Iterator
from dataclasses import dataclass
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
    """Moments of features, the mean distance between two images of one class, and the features of 2,000 images.

    These are random ones, as many of each class as its share is; `labels` are theirs, where labels are known.
    """

    mean: Float64[Tensor, " F"]
    covariance: Float64[Tensor, "F F"]
    within_class_distance: float
    features: Float[Tensor, "R F"]
    labels: Int64[Tensor, " R"] | None

    @classmethod
    def of(cls, features: Float[Tensor, "N F"], labels: Int64[Tensor, " N"] | None) -> "Statistics":
        """Take them of images; without labels the distance within a class is NaN."""
        double = features.double()
        distance = float("nan") if labels is None else within_class_distance(double, labels)
        kept = dealt(len(features), labels)
        return cls(double.mean(0), double.T.cov(), distance, features[kept].float(), None if labels is None else labels[kept])

    @classmethod
    def load(cls, path: Path) -> "Statistics":
        """Read them from a file. Raises ValueError when `path` is not what `save` wrote."""
        state = read_state(path)
        missing = sorted({"mean", "covariance", "within_class_distance", "features", "labels"} - state.keys())
        if missing:
            raise ValueError(f"{path} lacks {missing}: it is not a file of reference statistics")
        return cls(state["mean"], state["covariance"], state["within_class_distance"].item(), state["features"].float(), state["labels"])

    def save(self, path: Path) -> None:
        """Write them to a file. Labels must be known."""
        assert self.labels is not None
        distance = torch.tensor(self.within_class_distance, dtype=torch.float64)
        moments = {"mean": self.mean, "covariance": self.covariance, "within_class_distance": distance}
        with atomic_path(path) as temporary:
            save_file(moments | {"features": self.features, "labels": self.labels}, temporary)


def dealt(count: int, labels: Int64[Tensor, " N"] | None) -> Int64[Tensor, " R"]:
    """Return the places of KEPT random images out of `count`, evenly over the classes; of all when there are fewer."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    if labels is not None:
        order = order[labels[order].argsort(stable=True)]
    return order[torch.arange(min(KEPT, count)) * count // min(KEPT, count)]


def within_class_distance(features: Float64[Tensor, "N F"], labels: Int64[Tensor, " N"]) -> float:
    """Return the mean Euclidean distance between two different images of one class, classes weighted equally.

    At most 1,000 images of a class count. NaN when no class has two images.
    """
    distances = [torch.pdist(part).mean() for part in _by_class(features, labels) if len(part) > 1]
    return torch.stack(distances).mean().item() if distances else float("nan")


def _by_class(features: Float64[Tensor, "N F"], labels: Int64[Tensor, " N"]) -> Iterator[Float64[Tensor, "_ F"]]:
    for label in labels.unique():
        yield features[labels == label][:1000]
