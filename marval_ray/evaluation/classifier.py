"""The classifier of the embedded judge A: plain convolutions, features behind a hidden layer."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from marval_ray.evaluation.network import FeatureNetwork
from marval_ray.files.images import crop_to

FEATURES = 64
SIZE = 28


class Classifier(FeatureNetwork):
    """28 x 28 grey images (centre of 32 x 32 ones) to 64 features and 10 logits."""

    def __init__(self, num_classes: int = 10):
        super().__init__()
        widths = (1, 32, 64, 128)
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in zip(widths, widths[1:]))
        self.norms = nn.ModuleList(nn.BatchNorm2d(b) for b in widths[1:])
        self.features = nn.Linear(128 * 3 * 3, FEATURES)
        self.logits = nn.Linear(FEATURES, num_classes)

    def forward(self, images: Float[Tensor, "N 1 H W"]) -> tuple[Float[Tensor, "N F"], Float[Tensor, "N K"]]:
        """Return (features, logits) of images in [-1, 1]."""
        last = F.max_pool2d(self.feature_maps(images)[-1], 2)
        features = F.relu(self.features(F.dropout(last.flatten(1), 0.3, self.training)))
        return features, self.logits(features)

    def feature_maps(self, images: Float[Tensor, "N 1 H W"]) -> list[Float[Tensor, "N C h w"]]:
        """Return what each convolution sees, at 28, 14 and 7 pixels."""
        x = crop_to(images, SIZE)
        maps: list[Tensor] = []
        for convolution, norm in zip(self.convolutions, self.norms):
            x = F.relu(norm(convolution(F.max_pool2d(x, 2) if maps else x)))
            maps.append(x)
        return maps
