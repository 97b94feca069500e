"""Ways to spoil an image, for preference pairs: the original is preferred. Images are in [-1, 1]."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

Degradation = Callable[[Float[Tensor, "B C H W"], torch.Generator], Float[Tensor, "B C H W"]]


def noise(images: Tensor, generator: torch.Generator) -> Tensor:
    """Add white noise of standard deviation 0.1 to 0.5."""
    added = torch.randn(images.shape, generator=generator)
    return (images + strength(images, 0.1, 0.5, generator) * added).clamp(-1, 1)


def blur(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mix the image with its Gaussian blur of 1.5 pixels."""
    return images.lerp(gaussian_blur(images, [7, 7], [1.5, 1.5]), strength(images, 0.4, 1.0, generator))


def texture(images: Tensor, generator: torch.Generator) -> Tensor:
    """Add a checkerboard of one or two pixels, which optimised generators like to hide in images."""
    rows, columns = (torch.arange(size) for size in images.shape[-2:])
    period = torch.randint(1, 3, (len(images), 1, 1, 1), generator=generator)
    board = (rows[:, None] // period + columns // period) % 2 * 2.0 - 1
    return (images + strength(images, 0.1, 0.4, generator) * board).clamp(-1, 1)


def exposure(images: Tensor, generator: torch.Generator) -> Tensor:
    """Leave half to three quarters of the light, or add a third to two thirds of it."""
    darker, lighter = strength(images, 0.5, 0.75, generator), strength(images, 1.33, 1.67, generator)
    choice = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
    return ((images + 1) * torch.where(choice, darker, lighter) - 1).clamp(-1, 1)


def shuffle(images: Tensor, generator: torch.Generator) -> Tensor:
    """Let two quadrants change places."""
    top, bottom = images.chunk(2, dim=-2)
    parts = [*top.chunk(2, dim=-1), *bottom.chunk(2, dim=-1)]
    first, second = torch.randperm(4, generator=generator)[:2].tolist()
    parts[first], parts[second] = parts[second], parts[first]
    return torch.cat([torch.cat(parts[:2], dim=-1), torch.cat(parts[2:], dim=-1)], dim=-2)


DEGRADATIONS: dict[str, Degradation] = {
    "noise": noise, "blur": blur, "texture": texture, "exposure": exposure, "shuffle": shuffle,
}  # fmt: skip


def strength(images: Tensor, low: float, high: float, generator: torch.Generator) -> Float[Tensor, "B 1 1 1"]:
    """Draw a uniform number for each image."""
    return low + (high - low) * torch.rand(len(images), 1, 1, 1, generator=generator)
