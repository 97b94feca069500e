"""Quality of samples, as a judge sees it: the scores, and what all judges have in common."""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from marval_ray.evaluation.network import FeatureNetwork
from marval_ray.evaluation.statistics import Statistics
from marval_ray.types import Prompts

BATCH = 500


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What `Evaluator.score` measures; None is what such a judge does not know of such images.

    fd: Frechet distance to the reference images, 0 for equal moments. It falls with the number of samples.
    kid: kernel distance to them, whose mean does not depend on that number; of at most 2,000 of either.
    accuracy: share of samples in which the classifier sees what was asked for: their class, or all four attributes of their scene, 0..1.
    diversity: mean feature distance within a class over that of the reference; 1 is as varied as real images.
    recall: share of reference images that lie among the samples, 0..1 (see `recall`); it rises with their number.
    object, count, side, background: shares of scenes in which this attribute alone is right.
    """

    fd: float
    kid: float
    accuracy: float | None = None
    diversity: float | None = None
    recall: float
    samples: int
    object: float | None = None
    count: float | None = None
    side: float | None = None
    background: float | None = None

    def known(self) -> dict[str, float]:
        """Return by name what is known."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Evaluator(ABC):
    """Scores samples against the statistics of reference images, with features of a frozen classifier."""

    classifier: FeatureNetwork
    reference: Statistics
    CHANNELS: ClassVar[int]
    SIDES: ClassVar[tuple[int, ...]]
    """Pixels of a side of the images that it knows."""
    KNOWN: ClassVar[str]
    """The same in words."""

    @abstractmethod
    def score(self, images: Float[Tensor, "N C H W"], prompts: Prompts) -> Scores:
        """Score images in [-1, 1] that were drawn for these prompts.

        Raises ValueError when the judge does not know such images or prompts, or they are too few for a covariance.
        """

    @abstractmethod
    def check_prompts(self, prompts: Prompts) -> None:
        """Raise ValueError unless images of these prompts can be scored."""

    def check(self, side: int, prompts: Prompts) -> None:
        """Raise ValueError unless images of `side` x `side` pixels for these prompts can be scored: before they are drawn."""
        if side not in self.SIDES:
            raise ValueError(f"images are {side} x {side}: the evaluation knows {self.KNOWN} only")
        self.check_prompts(prompts)

    def check_images(self, images: Float[Tensor, "N C H W"]) -> None:
        """Raise ValueError unless these can be compared with the reference."""
        channels, rows, columns = images.shape[1:]
        if channels != self.CHANNELS or rows != columns or rows not in self.SIDES:
            size = f"{channels} x {rows} x {columns} (channels, rows, columns)"
            raise ValueError(f"images are {size}: the evaluation knows {self.KNOWN} only")
        check_count(len(images))

    def caveats(self, prompts: Prompts) -> list[str]:
        """Say what makes the scores of images of these prompts say less than they seem to."""
        count, features = len(prompts), len(self.reference.mean)
        if count > features:
            return []
        return [f"{count} images are too few to know the covariance of {features} features: FD is far too high"]


def check_count(images: int, sets: int = 1) -> None:
    """Raise ValueError when so few have no covariance in each of `sets`."""
    if images < 2 * sets:
        needed = f"{2 * sets} images" if sets == 1 else f"{2 * sets} images for {sets} sets"
        raise ValueError(f"FD needs at least {needed}, got {images}: it compares covariances")


@torch.no_grad()
def read(classifier: FeatureNetwork, images: Float[Tensor, "N C H W"]) -> tuple[Float[Tensor, "N F"], Float[Tensor, "N K"]]:
    """Return (features, logits) of images in [-1, 1]."""
    features, logits = zip(*(classifier(part) for part in images.split(BATCH)))
    return torch.cat(features), torch.cat(logits)
