"""Sizes of MAR."""

from dataclasses import dataclass
from typing import Literal

from marval_ray.diffusion.samplers import OneStep, check_reveal
from marval_ray.families.base import Family

Masking = Literal["mar", "cosine"]


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of MAR (arXiv 2406.11838, Table 5). `latent_size` and `patch_size` are in latent pixels."""

    latent_size: int = 16
    latent_channels: int = 16
    patch_size: int = 1
    num_classes: int = 1000
    buffer_size: int = 64
    """Class tokens in front of the sequence."""
    encoder_width: int = 768
    encoder_depth: int = 12
    encoder_heads: int = 12
    decoder_width: int = 768
    decoder_depth: int = 12
    decoder_heads: int = 12
    mlp_ratio: float = 4.0
    norm_eps: float = 1e-6
    head_width: int = 1024
    head_depth: int = 6
    student_timestep: int = 400
    """t*: the fixed timestep at which a one-step student reads its noise."""
    student_reveal: float | None = None
    """p: after the share u of a student's loops 1 - u^p of its tokens are hidden; None: cos(pi u / 2), as the teacher's loops have it."""
    masking: Masking = "mar"
    """What contexts hide in training: "mar" 0.7 to 1 of the tokens, as published models learned; "cosine" what sampling's loops hide."""
    image_size: int = 256
    """Pixels a side of the data. Where the autoencoder gives more, the rest is a border that is cut off."""

    def __post_init__(self) -> None:
        if self.latent_size % self.patch_size:
            raise ValueError(f"latent_size {self.latent_size} is not a multiple of patch_size {self.patch_size}")
        for part in ("encoder", "decoder"):
            width, heads = getattr(self, f"{part}_width"), getattr(self, f"{part}_heads")
            if width % heads:
                raise ValueError(f"{part}_width {width} is not a multiple of {part}_heads {heads}")
        check_reveal(self.student_reveal)

    @property
    def family(self) -> Family:
        """The family that knows what to do with these sizes."""
        from marval_ray.families.mar.family import FAMILY  # it imports this

        return FAMILY

    @property
    def one_step(self) -> OneStep:
        return OneStep(self.student_timestep, self.student_reveal)

    @property
    def num_tokens(self) -> int:
        return (self.latent_size // self.patch_size) ** 2

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, rows, columns)."""
        return self.latent_channels, self.latent_size, self.latent_size

    @property
    def token_channels(self) -> int:
        return self.latent_channels * self.patch_size**2
