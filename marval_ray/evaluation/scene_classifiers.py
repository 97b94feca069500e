"""What the judges of scenes look through: networks that read object, count, side and background from a picture."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from marval_ray.evaluation.network import FeatureNetwork
from marval_ray.evaluation.residual import GROUPS, Block
from marval_ray.scenes.scene import SIZE, attributes


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


def by_attribute(logits: Float[Tensor, "N K"]) -> tuple[Float[Tensor, "N _"], ...]:
    """Return the logits of each attribute, in the order of `attributes`."""
    return logits.split([len(values) for values in attributes().values()], dim=1)
