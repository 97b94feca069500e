"""What autoencoders have in common: frozen, between images and normalised latents, named by their encoder.

Latents leave `encode` with about zero mean and unit variance per channel: the student reads n ~ N(0, I) as if it
were x_t at t*, which holds only for normalised latents.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from marval_ray.families.base import CodecSizes
from marval_ray.files.checksums import fingerprint

WEIGHTS = "diffusion_pytorch_model"
"""How diffusers names the files of weights in a folder."""


@dataclass(frozen=True)
class Moments:
    """Posterior of the latents, already normalised."""

    mean: Float[Tensor, "N C h w"]
    std: Float[Tensor, "N C h w"]


class VAE(nn.Module, ABC):
    """An autoencoder with the normalisation (latent - shift) * scale around it; always frozen and in eval mode."""

    shift: Tensor
    scale: Tensor

    def __init__(self, autoencoder: nn.Module, sizes: CodecSizes, shift: Float[Tensor, "1 _ 1 1"], scale: Float[Tensor, "1 _ 1 1"]):
        super().__init__()
        self.autoencoder, self.sizes = autoencoder.eval().requires_grad_(False), sizes
        self.register_buffer("shift", shift)
        self.register_buffer("scale", scale)

    @abstractmethod
    def _posterior(self, images: Float[Tensor, "N c H W"]) -> tuple[Float[Tensor, "N C h w"], Float[Tensor, "N C h w"]]:
        """Return mean and standard deviation, not normalised."""

    @abstractmethod
    def _images(self, latents: Float[Tensor, "N C h w"]) -> Float[Tensor, "N c H W"]:
        """Decode latents that are not normalised."""

    @torch.no_grad()
    def encode(self, images: Float[Tensor, "N c H W"]) -> Moments:
        """Turn images in [-1, 1] into normalised posterior moments."""
        mean, std = self._posterior(images)
        return Moments((mean - self.shift) * self.scale, std * self.scale)

    def decode(self, latents: Float[Tensor, "N C h w"]) -> Float[Tensor, "N c H W"]:
        """Turn normalised latents into images, about [-1, 1], not clamped; differentiable."""
        return self._images(self.denormalise(latents))

    def denormalise(self, latents: Float[Tensor, "N C h w"]) -> Float[Tensor, "N C h w"]:
        """Return latents as the network itself has them."""
        return latents / self.scale + self.shift


ENCODING = ("shift", "scale", "autoencoder.encoder.", "autoencoder.quant_conv.")
"""Tensors that make latents of images."""


def codec_id(vae: VAE) -> str:
    """Name the encoder and the normalisation by their `fingerprint`.

    The decoder does not count: one fine-tuned on the same latents (`jobs/embedded/train_vae.py --decoder-of`) reads them as well.
    """
    return fingerprint({name: value for name, value in vae.state_dict().items() if name.startswith(ENCODING)})


def weights_of(folder: Path) -> tuple[Path, str | None]:
    """Find the file, or the index of the shards, and its variant such as fp16; safetensors before pickles."""
    for suffix in ("safetensors", "safetensors.index.json", "bin"):
        if (folder / f"{WEIGHTS}.{suffix}").exists():
            return folder / f"{WEIGHTS}.{suffix}", None
        for file in sorted(folder.glob(f"{WEIGHTS}.*.{suffix}")):
            return file, file.name.removeprefix(f"{WEIGHTS}.").removesuffix(f".{suffix}")
    raise ValueError(f"{folder / WEIGHTS}.safetensors is missing: the folder holds config.json but no weights")
