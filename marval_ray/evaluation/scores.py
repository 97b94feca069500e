"""Quality of samples: Frechet distance (FD), kernel distance (KID), accuracy, diversity and recall in a classifier's features."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from marval_ray.evaluation.features import load_features
from marval_ray.evaluation.frechet import frechet_distance
from marval_ray.evaluation.kernel import kernel_distance
from marval_ray.evaluation.network import FeatureNetwork
from marval_ray.evaluation.precision_recall import recall
from marval_ray.evaluation.statistics import Statistics

BATCH = 500
SIZES = ([28, 28], [32, 32])
KNOWN = "the evaluation knows grey ones of 28 x 28, or padded to 32 x 32, only"


@dataclass(frozen=True)
class Scores:
    """What `Evaluator.score` measures.

    fd: Frechet distance to the reference images, 0 for equal moments. It falls with the number of samples.
    kid: kernel distance to them, whose mean does not depend on that number; of at most 2,000 of either.
    accuracy: share of samples that the classifier gives their own label, 0..1.
    diversity: mean feature distance within a class over that of the reference; 1 is as varied as real images.
    Both are None of images without labels.
    recall: share of reference images that lie among the samples, 0..1 (see `recall`); it rises with their number.
    """

    fd: float
    kid: float
    accuracy: float | None
    diversity: float | None
    recall: float
    samples: int


@dataclass(frozen=True)
class Evaluator:
    """Scores samples against the statistics of reference images, with features of a frozen classifier."""

    classifier: FeatureNetwork
    reference: Statistics

    @classmethod
    def load(cls, classifier: Path, reference: Path) -> "Evaluator":
        return cls(load_features(classifier), Statistics.load(reference))

    def score(self, images: Float[Tensor, "N C H W"], labels: Int64[Tensor, " N"] | None) -> Scores:
        """Score images in [-1, 1], with their labels if they have some.

        Raises ValueError when the classifier does not know such images or labels, or they are too few for a covariance.
        """
        self.check(images, labels)
        features, predicted = classify(self.classifier, images)
        statistics = Statistics.of(features, labels)
        return Scores(
            fd=frechet_distance(statistics, self.reference),
            kid=kernel_distance(self.reference.features, statistics.features, self.reference.labels, statistics.labels),
            accuracy=None if labels is None else (predicted == labels).double().mean().item(),
            diversity=None if labels is None else statistics.within_class_distance / self.reference.within_class_distance,
            recall=recall(self.reference.features, statistics.features),
            samples=len(images),
        )

    def caveats(self, labels: Int64[Tensor, " N"]) -> list[str]:
        """Say what makes the scores of images with these labels say less than they seem to."""
        found, classes, features = len(labels.unique()), self.classifier.logits.out_features, len(self.reference.mean)
        said = []
        if found < classes:
            said.append(f"images of {found} of {classes} classes: FD compares them with images of all")
        if len(labels) <= features:
            said.append(f"{len(labels)} images are too few to know the covariance of {features} features: FD is far too high")
        return said

    def check(self, images: Float[Tensor, "N C H W"], labels: Int64[Tensor, " N"] | None) -> None:
        """Raise ValueError unless these images can be compared with the reference."""
        channels, *size = images.shape[1:]
        if channels != 1 or size not in SIZES:
            raise ValueError(f"images are {channels} x {size[0]} x {size[1]} (channels, rows, columns): {KNOWN}")
        check_count(len(images))
        if labels is not None:
            self.check_labels(labels)

    def check_labels(self, labels: Int64[Tensor, " N"]) -> None:
        """Raise ValueError unless images of these classes can be scored."""
        classes = self.classifier.logits.out_features
        outside = labels[(labels < 0) | (labels >= classes)]
        if len(outside):
            raise ValueError(
                f"{len(outside)} label(s) are outside the classifier's classes 0-{classes - 1}, the first is {outside[0].item()}"
            )


def check_count(images: int, sets: int = 1) -> None:
    """Raise ValueError when so few have no covariance in each of `sets`."""
    if images < 2 * sets:
        needed = f"{2 * sets} images" if sets == 1 else f"{2 * sets} images for {sets} sets"
        raise ValueError(f"FD needs at least {needed}, got {images}: it compares covariances")


@torch.no_grad()
def classify(
    classifier: FeatureNetwork, images: Float[Tensor, "N 1 H W"]
) -> tuple[Float[Tensor, "N F"], Int64[Tensor, " N"]]:
    """Return (features, predicted labels)."""
    features, logits = zip(*(classifier(part) for part in images.split(BATCH)))
    return torch.cat(features), torch.cat(logits).argmax(-1)
