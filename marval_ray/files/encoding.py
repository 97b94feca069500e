"""What a file of latents says in its schema's metadata of how they were made."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa

CODEC = b"marval_ray.codec"
"""Key of the schema's metadata: the id of the codec that made the latents."""
ENCODING = b"marval_ray.encoding"
"""Key of the schema's metadata: an `Encoding` as JSON."""


@dataclass(frozen=True)
class Encoding:
    """Sizes of images and latents, and the normaliser: (latent - shift) * scale, by channel, or one number for all.

    latent_shape: (C, h, w). image_size: pixels a side. image_channels: 1 or 3.
    """

    latent_shape: tuple[int, int, int]
    image_size: int
    image_channels: int
    shift: tuple[float, ...]
    scale: tuple[float, ...]

    @classmethod
    def of(cls, schema: pa.Schema) -> "Encoding | None":
        """Read what `schema` says; None of files that say nothing, as those before 2026-11-28."""
        noted = (schema.metadata or {}).get(ENCODING)
        if noted is None:
            return None
        values = json.loads(noted)
        shape, shift, scale = (tuple(values[name]) for name in ("latent_shape", "shift", "scale"))
        return cls(shape, values["image_size"], values["image_channels"], shift, scale)

    def json(self) -> str:
        return json.dumps(asdict(self))

    def __str__(self) -> str:
        shift, scale = (", ".join(f"{value:.4g}" for value in values) for values in (self.shift, self.scale))
        kind = "grey" if self.image_channels == 1 else "RGB"
        return f"{self.image_size} x {self.image_size} {kind} pixels, shift {shift}, scale {scale}"


def check_encoding(file: Path, schema: pa.Schema, shape: tuple[int, int, int], codec: str | None) -> None:
    """Raise ValueError when a file says that another codec than `codec` made its latents, or that they are of another shape (C, h, w)."""
    found, encoding = (schema.metadata or {}).get(CODEC, b"").decode(), Encoding.of(schema)
    if codec and found and codec != found:
        made = f"its codec is {found}{f' ({encoding})' if encoding else ''}, that of --vae {codec}"
        raise ValueError(f"{file} holds latents of another autoencoder ({made}): encode anew")
    if encoding and encoding.latent_shape != shape:
        raise ValueError(f"{file} holds latents of {encoding.latent_shape}, this model needs {shape}: encode anew, in its size")
