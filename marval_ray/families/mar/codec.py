"""MAR's codec: patches of an autoencoder's latents are its tokens."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from marval_ray.families.mar.autoencoder import load_vae
from marval_ray.families.mar.config import ModelConfig
from marval_ray.families.mar.model import unpatchify
from marval_ray.families.mar.vae import VAE, codec_id
from marval_ray.files.images import crop_to
from marval_ray.types import Tokens


@dataclass(frozen=True)
class KLCodec:
    """A frozen autoencoder and the sizes of the model whose tokens it decodes."""

    vae: VAE
    config: ModelConfig

    @classmethod
    def read(cls, path: Path, config: ModelConfig) -> "KLCodec":
        """Read the codec. Raises ValueError as `load_vae` does."""
        return cls(load_vae(path), config)

    @cached_property
    def id(self) -> str:
        return codec_id(self.vae)

    def to(self, device: torch.device | str) -> "KLCodec":
        return replace(self, vae=self.vae.to(device))

    def decode(self, tokens: Tokens) -> Float[Tensor, "B C H W"]:
        """Return images in [-1, 1]; differentiable in the values of the tokens."""
        images = self.vae.decode(unpatchify(tokens.values, self.config.patch_size)).float().clamp(-1, 1)
        return crop_to(images, self.config.image_size)
