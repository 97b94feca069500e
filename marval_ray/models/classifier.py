"""A small convolutional classifier: features for the Frechet distance, and class accuracy. No stage trains on it."""

from pathlib import Path

import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

FEATURES = 64


class Classifier(nn.Module):
    """28 x 28 grey images (centre of 32 x 32 ones) to 64 features and 10 logits."""

    def __init__(self, num_classes: int = 10):
        super().__init__()
        widths = (1, 32, 64, 128)
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in zip(widths, widths[1:]))
        self.norms = nn.ModuleList(nn.BatchNorm2d(b) for b in widths[1:])
        self.features = nn.Linear(128 * 3 * 3, FEATURES)
        self.logits = nn.Linear(FEATURES, num_classes)

    def forward(self, images: Float[Tensor, "N 1 H W"]) -> tuple[Float[Tensor, "N F"], Float[Tensor, "N K"]]:
        """(features, logits) of images in [-1, 1]."""
        border = (images.shape[-1] - 28) // 2
        x = images[..., border : border + 28, border : border + 28]
        for convolution, norm in zip(self.convolutions, self.norms):
            x = F.max_pool2d(F.relu(norm(convolution(x))), 2)
        features = F.relu(self.features(F.dropout(x.flatten(1), 0.3, self.training)))
        return features, self.logits(features)


def load_classifier(path: Path) -> Classifier:
    model = Classifier()
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load_file(path).items()})
    return model.eval().requires_grad_(False)
