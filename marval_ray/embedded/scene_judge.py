"""Judges of scenes: whether a picture shows the object, the count, the side and the background that its prompt asks for.

As GenEval's detector does (arXiv 2310.11513), on pictures whose every scene is known. Judge A selects, judge B reports alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from marval_ray.embedded.scenes import SIZE, Scene, attributes
from marval_ray.evaluation.features import load_features
from marval_ray.evaluation.frechet import frechet_distance
from marval_ray.evaluation.network import FeatureNetwork
from marval_ray.evaluation.residual import GROUPS, Block
from marval_ray.evaluation.scores import BATCH, check_count
from marval_ray.evaluation.statistics import Statistics


def logits_of(features: int) -> nn.Linear:
    """Make the last layer: logits of all objects, then of all counts, sides and backgrounds."""
    return nn.Linear(features, sum(map(len, attributes().values())))


class PlainSceneClassifier(FeatureNetwork):
    """Judge A's: plain convolutions, 80 features behind a hidden layer that sees where things are."""

    FEATURES = 80
    WIDTHS = (32, 48, 96, 112)
    SCALE = 0.2
    """Of the features, which leaves the logits alone: distances come out about as large as judge B's."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, self.WIDTHS[0], 5, stride=2, padding=2)
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in zip(self.WIDTHS, self.WIDTHS[1:]))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in self.WIDTHS)
        self.features = nn.Linear(self.WIDTHS[-1] * 4 * 4, self.FEATURES)
        self.logits = logits_of(self.FEATURES)

    def forward(self, images: Float[Tensor, "N 3 64 64"]) -> tuple[Float[Tensor, "N F"], Float[Tensor, "N K"]]:
        """Return (features, logits) of images in [-1, 1]."""
        last = F.max_pool2d(self.feature_maps(images)[-1], 2)
        features = F.relu(self.features(F.dropout(last.flatten(1), 0.1, self.training)))
        return self.SCALE * features, self.logits(features)

    def feature_maps(self, images: Float[Tensor, "N 3 64 64"]) -> list[Float[Tensor, "N C h w"]]:
        """Return what each convolution sees, at 32, 32, 16 and 8 pixels."""
        maps = [F.relu(self.norms[0](self.stem(images)))]
        for number, (convolution, norm) in enumerate(zip(self.convolutions, self.norms[1:])):
            x = F.max_pool2d(maps[-1], 2) if number else maps[-1]
            maps.append(F.relu(norm(convolution(x))))
        return maps


class ResidualSceneClassifier(FeatureNetwork):
    """Judge B's: residual blocks that are told where they look (arXiv 1807.03247), 112 features averaged over the last map."""

    WIDTHS = (32, 64, 112)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4 * 3 + 2, self.WIDTHS[0], 3, padding=1)
        self.blocks = nn.ModuleList(Block(a, b) for a, b in zip((self.WIDTHS[0], *self.WIDTHS), self.WIDTHS))
        self.norm = nn.GroupNorm(GROUPS, self.WIDTHS[-1])
        self.logits = logits_of(self.WIDTHS[-1])

    def forward(self, images: Float[Tensor, "N 3 64 64"]) -> tuple[Float[Tensor, "N F"], Float[Tensor, "N K"]]:
        """Return (features, logits) of images in [-1, 1]."""
        features = F.silu(self.norm(self.feature_maps(images)[-1])).mean((2, 3))
        return features, self.logits(features)

    def feature_maps(self, images: Float[Tensor, "N 3 64 64"]) -> list[Float[Tensor, "N C h w"]]:
        """Return what each block sees, at 32, 16 and 8 pixels."""
        line = torch.linspace(-1, 1, SIZE // 2, device=images.device)
        places = torch.stack(torch.meshgrid(line, line, indexing="ij")).expand(len(images), -1, -1, -1)
        x, maps = self.stem(torch.cat([F.pixel_unshuffle(images, 2), places], 1)), list[Tensor]()
        for block in self.blocks:
            x = block(F.avg_pool2d(x, 2) if maps else x)
            maps.append(x)
        return maps


SCENE_ARCHITECTURES: dict[str, type[FeatureNetwork]] = {"plain": PlainSceneClassifier, "residual": ResidualSceneClassifier}


def places_of(scenes: Sequence[Scene]) -> Int64[Tensor, "N 4"]:
    """Return the places of the four values of each scene in `attributes`."""
    return torch.tensor([scene.places() for scene in scenes])


def by_attribute(logits: Float[Tensor, "N K"]) -> tuple[Float[Tensor, "N _"], ...]:
    """Return the logits of each attribute, in the order of `attributes`."""
    return logits.split([len(values) for values in attributes().values()], dim=1)


@torch.no_grad()
def read_scenes(classifier: FeatureNetwork, images: Float[Tensor, "N 3 64 64"]) -> tuple[Float[Tensor, "N F"], Int64[Tensor, "N 4"]]:
    """Return features of images in [-1, 1], and the places of the four values that the classifier sees in each."""
    features, logits = zip(*(classifier(part) for part in images.split(BATCH)))
    return torch.cat(features), torch.stack([part.argmax(1) for part in by_attribute(torch.cat(logits))], 1)


@dataclass(frozen=True)
class SceneJudge:
    """Scores pictures of scenes, with a frozen classifier and the statistics of held-out scenes."""

    classifier: FeatureNetwork
    reference: Statistics

    @classmethod
    def load(cls, classifier: Path, reference: Path) -> "SceneJudge":
        """Read both. Raises ValueError when a file cannot be read or does not fit."""
        return cls(load_features(classifier, SCENE_ARCHITECTURES), Statistics.load(reference))

    def score(self, images: Float[Tensor, "N 3 64 64"], scenes: Sequence[Scene]) -> dict[str, float]:
        """Return the shares of images in [-1, 1] that show what was asked for, and their Frechet distance, `fd`.

        The shares, 0..1, have the names of attributes; `all` is that of images in which all four are right. Raises ValueError when
        images are too few for a covariance.
        """
        check_count(len(images))
        features, seen = read_scenes(self.classifier, images)
        return shares(seen, places_of(scenes)) | {"fd": frechet_distance(Statistics.of(features, None), self.reference)}


def shares(seen: Int64[Tensor, "N 4"], asked: Int64[Tensor, "N 4"]) -> dict[str, float]:
    """Return the share of images in which each attribute is as asked for, and `all` of them are."""
    right = seen == asked
    found = dict(zip(attributes(), right.double().mean(0).tolist()))
    return found | {"all": right.all(1).double().mean().item()}
