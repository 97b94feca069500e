"""Noise schedule of the diffusion head and mask schedule of the auto-regressive loops.

Forward process (improved DDPM, arXiv 2102.09672; the tables of MAR, arXiv 2406.11838):

    x_t = alpha_t x_0 + sigma_t e,   alpha_t^2 = abar_t = prod_{i<=t} (1 - beta_i),   sigma_t^2 = 1 - abar_t

Tables are built in float64. What meets tensors is made of them once, in float32: `forward` and `reverse`, a row a timestep.
"""

import math
from dataclasses import dataclass, fields
from functools import cache

import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

TRAINING_STEPS = 1000


@dataclass(frozen=True)
class Diffusion:
    """Per-step tables of one (possibly respaced) diffusion; index 0 is the least noisy step.

    `timesteps` are the timesteps of the 1000-step process that the head was trained on.
    forward: alpha_t, sigma_t. reverse: the coefficients of `reverse_moments`, in its order.
    """

    timesteps: Int64[Tensor, " S"]
    betas: Float64[Tensor, " S"]
    alphas_cumprod: Float64[Tensor, " S"]
    posterior_variance: Float64[Tensor, " S"]
    posterior_log_variance_clipped: Float64[Tensor, " S"]
    posterior_mean_coef1: Float64[Tensor, " S"]
    posterior_mean_coef2: Float64[Tensor, " S"]
    forward: Float32[Tensor, "S 2"]
    reverse: Float32[Tensor, "S 6"]

    def __len__(self) -> int:
        return len(self.betas)

    def to(self, device: torch.device | str) -> "Diffusion":
        return Diffusion(*(getattr(self, f.name).to(device) for f in fields(self)))

    def alpha_sigma(self, t: Int64[Tensor, " N"]) -> tuple[Float[Tensor, "N 1"], Float[Tensor, "N 1"]]:
        """Return (alpha_t, sigma_t) as float32 columns, for table indices `t` in 0..len(self)-1."""
        alpha, sigma = self.forward[t].split(1, dim=-1)
        return alpha, sigma


def _from_betas(betas: Float64[Tensor, " S"], timesteps: Int64[Tensor, " S"]) -> Diffusion:
    abar = torch.cumprod(1 - betas, dim=0)
    previous = torch.cat([abar.new_ones(1), abar[:-1]])
    variance = betas * (1 - previous) / (1 - abar)
    # The true posterior has no variance at step 0; the log table repeats step 1 there (MAR, improved DDPM).
    clipped = (torch.cat([variance[1:2], variance[1:]]) if len(betas) > 1 else variance.clamp(min=1e-20)).log()
    of_x_0, of_x_t = betas * previous.sqrt() / (1 - abar), (1 - previous) * (1 - betas).sqrt() / (1 - abar)
    reverse = ((1 / abar).sqrt(), (1 / abar - 1).sqrt(), of_x_0, of_x_t, clipped, betas.float().log())
    return Diffusion(
        timesteps=timesteps,
        betas=betas,
        alphas_cumprod=abar,
        posterior_variance=variance,
        posterior_log_variance_clipped=clipped,
        posterior_mean_coef1=of_x_0,
        posterior_mean_coef2=of_x_t,
        forward=torch.stack([abar.sqrt(), (1 - abar).sqrt()], dim=1).float(),
        reverse=torch.stack([part.float() for part in reverse], dim=1),
    )


@cache
def cosine_diffusion(steps: int = TRAINING_STEPS, device: torch.device | str = "cpu") -> Diffusion:
    """Return the 1000-step cosine schedule, respaced to `steps` ancestral steps (1 <= steps <= 1000), with its tables on `device`.

    Built once: samplers ask for it in every loop, and a GPU would wait for each table that is copied to it.
    """
    with torch.inference_mode(False):  # whoever asks first may draw only, others learn with the same tables
        return _respaced(steps).to(device)


def _respaced(steps: int) -> Diffusion:
    if not 1 <= steps <= TRAINING_STEPS:
        raise ValueError(f"diffusion steps must be in 1..{TRAINING_STEPS}, got {steps}")
    u = torch.arange(TRAINING_STEPS + 1, dtype=torch.float64) / TRAINING_STEPS
    f = torch.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
    betas = (1 - f[1:] / f[:-1]).clamp(max=0.999)
    if steps == TRAINING_STEPS:
        return _from_betas(betas, torch.arange(TRAINING_STEPS))
    abar = torch.cumprod(1 - betas, dim=0)
    timesteps = respaced_timesteps(steps)
    kept = abar[timesteps]
    return _from_betas(1 - kept / torch.cat([kept.new_ones(1), kept[:-1]]), timesteps)


def respaced_timesteps(steps: int) -> Int64[Tensor, " S"]:
    """Return `steps` of the 1000 timesteps, evenly spread from 0 to 999 and rounded half to even."""
    stride = (TRAINING_STEPS - 1) / (steps - 1) if steps > 1 else 1.0
    # A running sum, as the reference builds it: i * stride may differ in the last bit and round elsewhere.
    at, positions = 0.0, []
    for _ in range(steps):
        positions.append(round(at))
        at += stride
    return torch.tensor(positions, dtype=torch.int64)
