"""From images to MAR's data of stage 1: latents and class numbers."""

import math
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from marval_ray.families.base import CodecSizes
from marval_ray.families.mar.autoencoder import load_vae
from marval_ray.families.mar.vae import VAE, codec_id
from marval_ray.files.encoding import CODEC, ENCODING, Encoding
from marval_ray.files.latent_files import latents_schema


@dataclass(frozen=True)
class LatentEncoder:
    """An autoencoder, as jobs/encode.py uses it."""

    vae: VAE
    reads_texts = False

    @classmethod
    def read(cls, path: Path) -> "LatentEncoder":
        """Read the autoencoder. Raises ValueError as `load_vae` does."""
        return cls(load_vae(path))

    @property
    def id(self) -> str:
        return codec_id(self.vae)

    @property
    def sizes(self) -> CodecSizes:
        return self.vae.sizes

    def to(self, device: torch.device | str) -> "LatentEncoder":
        return LatentEncoder(self.vae.to(device))

    def schema(self, size: int) -> pa.Schema:
        side = size // self.sizes.stride
        shape = (self.sizes.latent_channels, side, side)
        shift, scale = (tuple(values.flatten().tolist()) for values in (self.vae.shift, self.vae.scale))
        encoding = Encoding(shape, size, self.sizes.image_channels, shift, scale)
        return latents_schema(math.prod(shape), {CODEC: self.id, ENCODING: encoding.json()})

    def columns(self, images: Float[Tensor, "N C H W"]) -> dict[str, Tensor]:
        """Return mean and standard deviation of the latents, (N, c * h * w) float16."""
        moments = self.vae.encode(images)
        return {"mean": moments.mean.flatten(1).half(), "std": moments.std.flatten(1).half()}
