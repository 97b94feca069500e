"""From images to DC-AR's data of stage 1: codes, values and prompts."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from marval_ray.families.base import CodecSizes
from marval_ray.families.dcar.codec import CONFIG, load_dcht, tokenizer_id
from marval_ray.families.dcar.config import DCARConfig
from marval_ray.families.dcar.data import data_schema
from marval_ray.families.dcar.tokenizer import DCHT
from marval_ray.files.encoding import CODEC, ENCODING, Encoding
from marval_ray.files.text import read_json

SIZE = DCARConfig().image_size
"""Pixels a side of the published model's images; DC-HT's own files do not say."""


@dataclass(frozen=True)
class CodeEncoder:
    """A DC-HT, as jobs/encode.py uses it. scale: what its residuals are divided by."""

    tokenizer: DCHT
    scale: float
    reads_texts = True

    @classmethod
    def read(cls, path: Path) -> "CodeEncoder":
        """Read the tokenizer, and its scale where config.json names one. Raises ValueError as `load_dcht` does."""
        return cls(load_dcht(path), read_json(path / CONFIG).get("residual_scale", DCARConfig().residual_scale))

    @property
    def id(self) -> str:
        return tokenizer_id(self.tokenizer)

    @property
    def sizes(self) -> CodecSizes:
        c = self.tokenizer.config
        return CodecSizes(SIZE, 3, c.stride, c.token_channels)

    def to(self, device: torch.device | str) -> "CodeEncoder":
        return CodeEncoder(self.tokenizer.to(device), self.scale)

    def schema(self, size: int) -> pa.Schema:
        side = size // self.sizes.stride
        encoding = Encoding((self.sizes.latent_channels, side, side), size, 3, (0.0,), (1 / self.scale,))
        return data_schema(side**2, self.sizes.latent_channels, {CODEC: self.id, ENCODING: encoding.json()})

    def columns(self, images: Float[Tensor, "N 3 H W"]) -> dict[str, Tensor]:
        """Return codes, (N, L) int16, and values, (N, L * D) float16."""
        codes, residual = self.tokenizer.encode(images)
        return {"codes": codes.to(torch.int16), "values": (residual / self.scale).flatten(1).half()}
