"""Configuration: one small frozen dataclass for each concern; presets as one table."""

import math
from dataclasses import dataclass
from typing import Literal


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
    image_size: int = 256
    """Pixels a side of the data. Where the autoencoder gives more, the rest is a border that is cut off."""

    def __post_init__(self) -> None:
        if self.latent_size % self.patch_size:
            raise ValueError(f"latent_size {self.latent_size} is not a multiple of patch_size {self.patch_size}")
        for part in ("encoder", "decoder"):
            width, heads = getattr(self, f"{part}_width"), getattr(self, f"{part}_heads")
            if width % heads:
                raise ValueError(f"{part}_width {width} is not a multiple of {part}_heads {heads}")

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


MODELS = {
    "tiny": ModelConfig(
        latent_size=8, latent_channels=4, num_classes=10, buffer_size=8,
        encoder_width=128, encoder_depth=2, encoder_heads=4,
        decoder_width=128, decoder_depth=4, decoder_heads=4,
        head_width=192, head_depth=3, image_size=28,
    ),
    "mar-b": ModelConfig(),
    "mar-l": ModelConfig(
        encoder_width=1024, encoder_depth=16, encoder_heads=16,
        decoder_width=1024, decoder_depth=16, decoder_heads=16,
        head_width=1280, head_depth=8,
    ),
    "mar-h": ModelConfig(
        encoder_width=1280, encoder_depth=20, encoder_heads=16,
        decoder_width=1280, decoder_depth=20, decoder_heads=16,
        head_width=1536, head_depth=12,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class GSIMConfig:
    """The generator's loss (MARVAL, supplement, Table 1) and the auxiliary network's share of the work."""

    w: float = 1.2
    """Guidance scale of the teacher's score."""
    k: float = 1.0
    """Coefficient of L2; with the squared distance k = 1 is SiD's alpha 0.5 and k = -0.4 its alpha 1.2."""
    distance: Literal["pseudo_huber", "squared"] = "pseudo_huber"
    huber_radius: float = 1e-5
    detach_l2: bool = False
    """Cut the gradient of L2: with the squared distance this is score implicit matching (SIM)."""
    weighting: Literal["constant", "sigma", "sigma2", "sigma2/alpha"] = "constant"
    """lambda(t)."""
    t_min: int = 20
    t_max: int = 980
    """Timesteps are uniform in t_min..t_max (2 % to 98 %, as DMD2 draws them)."""
    auxiliary_updates: int = 1
    """Updates of the auxiliary network before each update of the student."""
    repeats: int = 1
    """Draws of (t, e) for each student token in an auxiliary update."""

    def __post_init__(self) -> None:
        if not 0 <= self.t_min <= self.t_max <= 999:
            raise ValueError(f"timesteps need 0 <= t_min <= t_max <= 999, got t_min {self.t_min}, t_max {self.t_max}")
        if self.auxiliary_updates < 1:
            raise ValueError(f"auxiliary_updates must be at least 1, got {self.auxiliary_updates}")


@dataclass(frozen=True)
class LearnerConfig:
    """Optimisation of student and auxiliary network, and how it is spread over workers."""

    steps: int = 75_000
    """Updates of the student; 75,000 of 512 images are the paper's 30 epochs."""
    batch: int = 64
    """Images a worker and update."""
    lr: float = 5e-6
    auxiliary_lr: float = 5e-6
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    lr_decay: bool = False
    """Take the learning rates down to zero by a cosine."""
    warmup: int = 0
    """Updates of linear warm-up of the learning rates."""
    ema: float = 0.9999
    grad_clip: float = 1.0
    workers: int = 1
    gpus_per_worker: int = 0
    cpus_per_worker: int = 1
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed's ZeRO stage of both networks."""
    max_failures: int = 3
    """How often Ray Train restarts lost workers from the last checkpoint before it gives up."""
    max_bad_steps: int = 10
    """Stop after so many updates in a row with a loss or gradient that is not finite."""
    log_every: int = 10
    checkpoint_every: int = 1000

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "workers", "cpus_per_worker", "log_every", "checkpoint_every", "max_bad_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"learner.{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"learner.ema must be in [0, 1), got {self.ema}")

    def lr_factor(self, step: int) -> float:
        """Factor of the learning rates at update `step`."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        return warm * (0.5 * (1 + math.cos(math.pi * step / self.steps)) if self.lr_decay else 1.0)


@dataclass(frozen=True)
class GSIMPreset:
    model: ModelConfig
    gsim: GSIMConfig
    learner: LearnerConfig


_PAPER = LearnerConfig(workers=8, gpus_per_worker=1, cpus_per_worker=4, zero_stage=1)

GSIM_PRESETS = {
    # w, k, t*, lambda(t) and the auxiliary network's updates are the winners of docs/results.md's ablation.
    "tiny": GSIMPreset(
        MODELS["tiny"],
        GSIMConfig(w=1.35, k=-0.4),
        LearnerConfig(
            steps=250, batch=64, lr=2e-4, auxiliary_lr=4e-4, betas=(0.0, 0.999), lr_decay=True, warmup=10, ema=0.98,
            cpus_per_worker=2, checkpoint_every=50,
        ),
    ),
    "mar-b": GSIMPreset(MODELS["mar-b"], GSIMConfig(), _PAPER),
    "mar-l": GSIMPreset(MODELS["mar-l"], GSIMConfig(), _PAPER),
    "mar-h": GSIMPreset(MODELS["mar-h"], GSIMConfig(), _PAPER),
}  # fmt: skip
"""Defaults of `jobs/distill.py`; those of mar-* are the paper's (supplement, Table 1)."""
