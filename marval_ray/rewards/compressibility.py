"""A reward without a gradient, and an example of a plug-in: `plugin:marval_ray.rewards.compressibility:Compressibility`."""

import io
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from marval_ray.files.images import to_pixels

QUALITY = 95


class Compressibility:
    """Minus the size of the image as a JPEG of quality 95, in KB (DDPO, arXiv 2305.13301, section 5.1). The prompt does not matter."""

    differentiable = False

    def __call__(self, images: Float[Tensor, "B C H W"], prompts: Sequence[str]) -> Float[Tensor, " B"]:
        return torch.tensor([-jpeg_bytes(pixels) / 1000 for pixels in to_pixels(images)], dtype=torch.float32)


class Incompressibility(Compressibility):
    """The size itself: pays for texture."""

    def __call__(self, images: Float[Tensor, "B C H W"], prompts: Sequence[str]) -> Float[Tensor, " B"]:
        return -super().__call__(images, prompts)


def jpeg_bytes(pixels: UInt8[np.ndarray, "H W C"]) -> int:
    """Return the size of one image as a JPEG."""
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(file, "JPEG", quality=QUALITY)
    return file.getbuffer().nbytes
