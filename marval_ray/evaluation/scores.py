"""Quality of samples: Frechet distance (FD), class accuracy, diversity and recall in a classifier's features."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float, Float64, Int64
from safetensors.torch import save_file
from torch import Tensor

from marval_ray.evaluation.classifier import Classifier, load_classifier
from marval_ray.files.atomic import atomic_path
from marval_ray.files.tensors import read_state

BATCH = 500
SIZES = ([28, 28], [32, 32])
KNOWN = "the evaluation knows grey ones of 28 x 28, or padded to 32 x 32, only"
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
    def of(cls, features: Float[Tensor, "N F"], labels: Int64[Tensor, " N"]) -> "Statistics":
        double = features.double()
        kept = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))[:KEPT]
        return cls(double.mean(0), double.T.cov(), within_class_distance(double, labels), features[kept].float())

    @classmethod
    def load(cls, path: Path) -> "Statistics":
        """Raises ValueError when `path` is not what `save` wrote."""
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


@dataclass(frozen=True)
class Scores:
    """What `Evaluator.score` measures.

    fd: Frechet distance to the reference images, 0 for equal moments.
    accuracy: share of samples that the classifier gives their own label, 0..1.
    diversity: mean feature distance within a class over that of the reference; 1 is as varied as real images.
    recall: share of reference images that lie among the samples, 0..1 (see `recall`); it rises with their number.
    """

    fd: float
    accuracy: float
    diversity: float
    recall: float
    samples: int


@dataclass(frozen=True)
class Evaluator:
    """Scores samples against the statistics of reference images, with features of a frozen classifier."""

    classifier: Classifier
    reference: Statistics

    @classmethod
    def load(cls, classifier: Path, reference: Path) -> "Evaluator":
        return cls(load_classifier(classifier), Statistics.load(reference))

    def score(self, images: Float[Tensor, "N 1 H W"], labels: Int64[Tensor, " N"]) -> Scores:
        """Scores of images in [-1, 1] with their labels.

        Raises ValueError when the classifier does not know such images or labels, or they are too few for a covariance.
        """
        self.check(images, labels)
        features, predicted = classify(self.classifier, images)
        statistics = Statistics.of(features, labels)
        return Scores(
            fd=frechet_distance(statistics, self.reference),
            accuracy=(predicted == labels).double().mean().item(),
            diversity=statistics.within_class_distance / self.reference.within_class_distance,
            recall=recall(self.reference.features, statistics.features),
            samples=len(images),
        )


    def caveats(self, labels: Tensor) -> list[str]:
        """What makes the scores of images with these labels say less than they seem to."""
        found, classes, features = len(labels.unique()), self.classifier.logits.out_features, len(self.reference.mean)
        said = []
        if found < classes:
            said.append(f"images of {found} of {classes} classes: FD compares them with images of all")
        if len(labels) <= features:
            said.append(f"{len(labels)} images are too few to know the covariance of {features} features: FD is far too high")
        return said

    def check(self, images: Tensor, labels: Tensor) -> None:
        """Raise ValueError unless these images can be compared with the reference."""
        channels, *size = images.shape[1:]
        if channels != 1 or size not in SIZES:
            raise ValueError(f"images are {channels} x {size[0]} x {size[1]} (channels, rows, columns): {KNOWN}")
        self.check_labels(labels)

    def check_labels(self, labels: Tensor) -> None:
        """Raise ValueError unless images of these classes can be scored."""
        classes = self.classifier.logits.out_features
        if len(labels) < 2:
            raise ValueError(f"FD needs at least 2 images, got {len(labels)}: it compares covariances")
        outside = labels[(labels < 0) | (labels >= classes)]
        if len(outside):
            raise ValueError(
                f"{len(outside)} label(s) are outside the classifier's classes 0-{classes - 1}, the first is {outside[0].item()}"
            )


@torch.no_grad()
def classify(
    classifier: Classifier, images: Float[Tensor, "N 1 H W"]
) -> tuple[Float[Tensor, "N F"], Int64[Tensor, " N"]]:
    """(features, predicted labels)."""
    features, logits = zip(*(classifier(part) for part in images.split(BATCH)))
    return torch.cat(features), torch.cat(logits).argmax(-1)


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) (Heusel et al., arXiv 1706.08500).

    The trace of the root is the sum of the roots of the eigenvalues of C_a C_b, which are those of the symmetric
    C_a^(1/2) C_b C_a^(1/2).
    """
    root = _symmetric_root(a.covariance)
    eigenvalues = torch.linalg.eigvalsh(root @ b.covariance @ root).clamp(min=0)
    gap = (a.mean - b.mean).square().sum()
    return (gap + a.covariance.trace() + b.covariance.trace() - 2 * eigenvalues.sqrt().sum()).item()


def recall(real: Float[Tensor, "R F"], samples: Float[Tensor, "N F"], neighbours: int = 3) -> float:
    """Share of real features no farther from some sample than that sample's third nearest neighbour among the samples
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
    """Mean Euclidean distance between two different images of one class, classes weighted equally.

    At most 1,000 images of a class count. NaN when no class has two images.
    """
    distances = [torch.pdist(part).mean() for part in _by_class(features, labels) if len(part) > 1]
    return torch.stack(distances).mean().item() if distances else float("nan")


def _by_class(features: Tensor, labels: Tensor) -> Iterator[Tensor]:
    for label in labels.unique():
        yield features[labels == label][:1000]


def _symmetric_root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T
