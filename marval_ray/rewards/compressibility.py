"""A reward without a gradient, and an example of a plug-in: `plugin:marval_ray.rewards.compressibility:Compressibility`."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from marval_ray.files.images import encode_image, to_pixels

QUALITY = 95


class Compressibility:
    """Minus the size of the image as a JPEG of quality 95, in KB (DDPO, arXiv 2305.13301, section 5.1). The prompt does not matter."""

    differentiable = False

    def __call__(self, images: Float[Tensor, "B C H W"], prompts: Sequence[str]) -> Float[Tensor, " B"]:
        sizes = [len(encode_image(pixels, "JPEG", quality=QUALITY)) for pixels in to_pixels(images)]
        return torch.tensor(sizes, dtype=torch.float32) / -1000


class Incompressibility(Compressibility):
    """The size itself: pays for texture."""

    def __call__(self, images: Float[Tensor, "B C H W"], prompts: Sequence[str]) -> Float[Tensor, " B"]:
        return -super().__call__(images, prompts)
