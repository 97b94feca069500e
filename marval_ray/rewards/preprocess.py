"""What CLIP-like processors do to an image, with gradients."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.transforms.functional import InterpolationMode, center_crop, pad, resize

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ImageTransform:
    """Shorter side to `size` (bicubic, antialiased), centre crop to `crop`, then (x - mean) / std by channel.

    The PIL path rounds to 8 bits on its way; this one does not, and differs from it by less than 1e-2 of the range.
    """

    size: int
    crop: int
    mean: tuple[float, ...] = OPENAI_MEAN
    std: tuple[float, ...] = OPENAI_STD

    @classmethod
    def of(cls, processor: Any) -> "ImageTransform":
        """Return the transform of a transformers CLIP image processor."""
        size, crop = processor.size["shortest_edge"], processor.crop_size["height"]
        return cls(size, crop, tuple(processor.image_mean), tuple(processor.image_std))

    def __call__(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 3 h w"]:
        """Transform images in [-1, 1]; grey ones are repeated to three channels."""
        x = in_colour(images)
        height, width = x.shape[-2:]
        rows, columns = (self.size * side // min(height, width) for side in (height, width))
        # PIL resizes rows, then columns, and bicubic overshoot is cut off after each.
        for size in ([height, columns], [rows, columns]):
            x = resize(x, size, InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)
        return normalised(center_crop(x, [self.crop, self.crop]), self.mean, self.std)


@dataclass(frozen=True)
class PaddedTransform:
    """Longer side to `size` (bicubic, antialiased), black around it to a square, then (x - mean) / std by channel.

    HPSv2's own (tgxs002/HPSv2), which resizes tensors: nothing is rounded, and bicubic overshoot stays.
    """

    size: int
    mean: tuple[float, ...] = OPENAI_MEAN
    std: tuple[float, ...] = OPENAI_STD

    def __call__(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 3 h w"]:
        """Transform images in [-1, 1]; grey ones are repeated to three channels. An odd row or column of black is at the end."""
        x = in_colour(images)
        scale = self.size / max(x.shape[-2:])
        rows, columns = (round(side * scale) for side in x.shape[-2:])
        x = resize(x, [rows, columns], InterpolationMode.BICUBIC, antialias=True)
        top, left = (self.size - rows) // 2, (self.size - columns) // 2
        x = pad(x, [left, top, self.size - columns - left, self.size - rows - top])
        return normalised(x, self.mean, self.std)


def in_colour(images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 3 H W"]:
    """Return images in [-1, 1], grey or not, as three channels in [0, 1]."""
    return (images.expand(-1, 3, -1, -1) + 1) / 2


def normalised(x: Float[Tensor, "B 3 H W"], mean: tuple[float, ...], std: tuple[float, ...]) -> Float[Tensor, "B 3 H W"]:
    """Return (x - mean) / std by channel. torchvision's own looks at the values of `std`, for which a GPU would have to wait."""
    return (x - x.new_tensor(mean)[:, None, None]) / x.new_tensor(std)[:, None, None]


def cosine(a: Float[Tensor, "B F"], b: Float[Tensor, "B F"]) -> Float[Tensor, " B"]:
    """Return the cosine similarity, row by row."""
    return torch.nn.functional.cosine_similarity(a, b, dim=-1)
