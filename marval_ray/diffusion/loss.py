"""The diffusion loss of MAR (arXiv 2406.11838, section 3.2; learned variance of improved DDPM, arXiv 2102.09672).

Per token:  |e - eps(x_t, t, z)|^2 / D  +  L_vb(v) in bits, where L_vb sees a detached eps.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from marval_ray.diffusion.head import DenoisingHead
from marval_ray.diffusion.schedule import Diffusion
from marval_ray.loss import Loss


@dataclass(frozen=True)
class DiffusionTerms:
    """The loss of each row, before reduction; `vb` is in bits."""

    mse: Float[Tensor, " N"]
    vb: Float[Tensor, " N"]

    @property
    def total(self) -> Float[Tensor, " N"]:
        return self.mse + self.vb


def denoising_loss(
    head: DenoisingHead,
    x_0: Float[Tensor, "N D"],
    z: Float[Tensor, "N Z"],
    t: Int64[Tensor, " N"],
    noise: Float[Tensor, "N D"],
    diffusion: Diffusion,
) -> Loss:
    """Return the mean over rows of the diffusion loss at timesteps `t` (0..999) with the noise `noise` ~ N(0, I)."""
    terms = diffusion_terms(head, x_0, z, t, noise, diffusion)
    value = terms.total.mean()
    return Loss(value, {"mse": terms.mse.mean().detach(), "vb": terms.vb.mean().detach()})


def diffusion_terms(
    head: DenoisingHead, x_0: Float[Tensor, "N D"], z: Float[Tensor, "N Z"], t: Int64[Tensor, " N"], noise: Float[Tensor, "N D"],
    diffusion: Diffusion,
) -> DiffusionTerms:  # fmt: skip
    """Return the two terms of `denoising_loss`, row by row."""
    alpha, sigma = diffusion.alpha_sigma(t)
    x_t = alpha * x_0 + sigma * noise
    eps, v = head(x_t.to(z.dtype), t, z)
    eps, v = eps.float(), v.float()
    mse = (noise - eps).square().mean(-1)
    return DiffusionTerms(mse, variational_bits(x_0, x_t, eps.detach(), v, t, diffusion))


def reverse_moments(
    x_t: Float[Tensor, "N D"], eps: Float[Tensor, "N D"], v: Float[Tensor, "N D"], coefficients: Float32[Tensor, "M 6"],
    clip_x0: float | None = None,
) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N D"]]:  # fmt: skip
    """Return mean and log-variance of p(x_{t-1} | x_t), with the learned range between the posterior's variance and beta.

    coefficients: rows of `Diffusion.reverse`, one for all tokens (M = 1) or one a token (M = N).
    """
    _, _, of_x_0, of_x_t, low, high = coefficients.split(1, dim=-1)
    x_0 = predicted_x_0(x_t, eps, coefficients, clip_x0)
    fraction = (v + 1) / 2
    return of_x_0 * x_0 + of_x_t * x_t, fraction * high + (1 - fraction) * low


def predicted_x_0(
    x_t: Float[Tensor, "N D"], eps: Float[Tensor, "N D"], coefficients: Float32[Tensor, "M 6"], clip_x0: float | None = None
) -> Float[Tensor, "N D"]:
    """Return (x_t - sigma_t eps) / alpha_t, within +-clip_x0; coefficients as of `reverse_moments`."""
    by_x_t, by_eps = coefficients[:, :2].split(1, dim=-1)
    x_0 = by_x_t * x_t - by_eps * eps
    return x_0 if clip_x0 is None else x_0.clamp(-clip_x0, clip_x0)


def variational_bits(
    x_0: Float[Tensor, "N D"], x_t: Float[Tensor, "N D"], eps: Float[Tensor, "N D"], v: Float[Tensor, "N D"],
    t: Int64[Tensor, " N"], diffusion: Diffusion,
) -> Float[Tensor, " N"]:  # fmt: skip
    """Return KL(true posterior | model) in bits a channel; at t = 0 the negative log-likelihood of x_0 in bins of 1/127.5."""
    coefficients = diffusion.reverse[t]
    mean, log_variance = reverse_moments(x_t, eps, v, coefficients)
    _, _, of_x_0, of_x_t, true_log_variance, _ = coefficients.split(1, dim=-1)
    true_mean = of_x_0 * x_0 + of_x_t * x_t
    gap = true_log_variance - log_variance
    kl = 0.5 * (-1 - gap + gap.exp() + (true_mean - mean).square() * (-log_variance).exp())
    nll = -_binned_log_likelihood(x_0, mean, 0.5 * log_variance)
    return torch.where(t.unsqueeze(-1) == 0, nll, kl).mean(-1) / math.log(2)


def _binned_log_likelihood(
    x: Float[Tensor, "N D"], mean: Float[Tensor, "N D"], log_scale: Float[Tensor, "N D"]
) -> Float[Tensor, "N D"]:
    """Return the log-probability of the bin of half-width 1/255 around x; the outermost bins are open."""
    inverse = (-log_scale).exp()
    upper, lower = _normal_cdf(inverse * (x - mean + 1 / 255)), _normal_cdf(inverse * (x - mean - 1 / 255))
    inner = (upper - lower).clamp(min=1e-12).log()
    inner = torch.where(x > 0.999, (1 - lower).clamp(min=1e-12).log(), inner)
    return torch.where(x < -0.999, upper.clamp(min=1e-12).log(), inner)


def _normal_cdf(u: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))
