"""How far decoded images are from real ones: what the embedded autoencoder and the tokenizer of scenes learn by."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from marval_ray.evaluation.network import FeatureNetwork


def reconstruction(
    decoded: Float[Tensor, "N C H W"], images: Float[Tensor, "N C H W"], classifier: FeatureNetwork | None, weight: float
) -> Float[Tensor, ""]:
    """Return L1 + MSE, and `weight` times the distance of feature maps with unit length at each pixel (LPIPS, arXiv 1801.03924)."""
    value = F.mse_loss(decoded, images) + F.l1_loss(decoded, images)
    if classifier is None:
        return value
    pairs = zip(classifier.feature_maps(decoded), classifier.feature_maps(images))
    return value + weight * sum((F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(1).mean() for a, b in pairs)
