"""What the networks of all judges have in common."""

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn


class FeatureNetwork(nn.Module, ABC):
    """Turns images (N, C, H, W) in [-1, 1] into (features (N, F), logits (N, K)); `logits` is its last layer."""

    logits: nn.Linear

    @abstractmethod
    def feature_maps(self, images: Float[Tensor, "N C H W"]) -> list[Float[Tensor, "N D h w"]]:
        """Return what the layers on the way see, from fine to coarse."""
