"""Sizes of DC-AR."""

from dataclasses import dataclass

from marval_ray.diffusion.samplers import OneStep
from marval_ray.families.base import Family


@dataclass(frozen=True)
class DCARConfig:
    """Sizes and how codes are drawn; the defaults are those of the published dc-ar-512 (arXiv 2507.04947 and its repository)."""

    side: int = 16
    """Tokens a side."""
    num_codes: int = 16_384
    token_channels: int = 32
    """Of a token's residual."""
    residual_scale: float = 0.107
    """Values are residuals divided by it: about N(0, 1), where it is their standard deviation."""
    text_length: int = 300
    """Tokens to which the text encoder pads and cuts every prompt."""
    text_width: int = 768
    width: int = 1152
    depth: int = 28
    heads: int = 16
    mlp_width: int = 4608
    head_width: int = 1024
    head_depth: int = 6
    code_guidance: float = 5.5
    """w of u + w (c - u) for the logits of codes. DC-AR writes (1 + w) c - w u: this is its 4.5."""
    code_temperature: float = 1.5
    """Factor of the Gumbel noise in the first loop; it falls to 0 in the last."""
    student_timestep: int = 400
    """t*: the fixed timestep at which a one-step student reads its noise."""
    student_noise: float = 1.0
    """Standard deviation of the noise from which a student draws residuals; it is trained with 1. Tokens draw theirs apart from each other,
    so less can be better: at 0 residuals follow from codes and text."""
    image_size: int = 512

    def __post_init__(self) -> None:
        if self.width % self.heads or self.width % 4:
            raise ValueError(f"width {self.width} is not a multiple of 4 and of heads {self.heads}")
        if not 0 <= self.student_noise <= 2:
            raise ValueError(f"student_noise must be in 0..2, got {self.student_noise}")

    @property
    def family(self) -> Family:
        """The family that knows what to do with these sizes."""
        from marval_ray.families.dcar.family import FAMILY  # it imports this

        return FAMILY

    @property
    def one_step(self) -> OneStep:
        return OneStep(self.student_timestep, initial_std=self.student_noise)

    @property
    def num_tokens(self) -> int:
        return self.side**2

    @property
    def num_classes(self) -> None:
        """None: it reads texts."""
        return None

    @property
    def mask_code(self) -> int:
        """What stands for a hidden code."""
        return self.num_codes
