"""The classifier of the embedded judge B: residual blocks, features averaged over the last map."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from marval_ray.evaluation.network import FeatureNetwork
from marval_ray.files.images import crop_to

WIDTHS = (32, 64, 96)
GROUPS = 8
SIZE = 28
SCALE = 4.0
"""Of the features, which leaves the logits alone: distances come out about as large as judge A's."""


class Block(nn.Module):
    """Two convolutions beside an identity, or beside a 1 x 1 convolution where the width changes (arXiv 1603.05027)."""

    def __init__(self, before: int, after: int):
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(GROUPS, width) for width in (before, after))
        self.convolutions = nn.ModuleList(nn.Conv2d(width, after, 3, padding=1) for width in (before, after))
        self.beside = nn.Identity() if before == after else nn.Conv2d(before, after, 1)

    def forward(self, x: Float[Tensor, "N C h w"]) -> Float[Tensor, "N D h w"]:
        y = x
        for norm, convolution in zip(self.norms, self.convolutions):
            y = convolution(F.silu(norm(y)))
        return self.beside(x) + y


class ResidualClassifier(FeatureNetwork):
    """28 x 28 grey images (centre of 32 x 32 ones) to 96 features and 10 logits."""

    def __init__(self, num_classes: int = 10):
        super().__init__()
        self.stem = nn.Conv2d(1, WIDTHS[0], 3, padding=1)
        self.blocks = nn.ModuleList(Block(before, after) for before, after in zip((WIDTHS[0], *WIDTHS), WIDTHS))
        self.norm = nn.GroupNorm(GROUPS, WIDTHS[-1])
        self.logits = nn.Linear(WIDTHS[-1], num_classes)

    def forward(self, images: Float[Tensor, "N 1 H W"]) -> tuple[Float[Tensor, "N F"], Float[Tensor, "N K"]]:
        """Return (features, logits) of images in [-1, 1]."""
        features = F.silu(self.norm(self.feature_maps(images)[-1])).mean((2, 3))
        return SCALE * features, self.logits(F.dropout(features, 0.3, self.training))

    def feature_maps(self, images: Float[Tensor, "N 1 H W"]) -> list[Float[Tensor, "N C h w"]]:
        """Return what each block sees, at 28, 14 and 7 pixels."""
        x, maps = self.stem(crop_to(images, SIZE)), list[Tensor]()
        for block in self.blocks:
            x = block(F.avg_pool2d(x, 2) if maps else x)
            maps.append(x)
        return maps
