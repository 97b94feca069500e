"""Guided score implicit matching, the generator's loss (MARVAL, arXiv 2511.15190, Eq. A.2 - A.11).

For student tokens x_0 = G(n, c), x_t = alpha_t x_0 + sigma_t e and scores s = -eps / sigma_t:

    y  = s_psi(x_t) - s_T(x_t),          s_T guided: eps_u + w (eps_c - eps_u)
    L1 = - d'(y)^T (s_psi(x_t) + e / sigma_t)
    L2 = d(y)                            (the minus in A.11 is a typo: tests hold the sign against a closed form)
    L  = E [ lambda(t) (L1 + k L2) ]

The gradient reaches the student through x_t only. Teacher and auxiliary are constants, and their conditions z depend
on the context alone, so g = dL/dx_t needs a backward pass through two small heads; then dL/dx_0 = alpha_t g and the
student is differentiated on the surrogate sum(x_0 * stopgrad(dL/dx_0)).

Shape suffixes: N tokens, D token channels.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from marval_ray.config import GSIMConfig
from marval_ray.diffusion.schedule import Diffusion
from marval_ray.loss import Loss

Noise = Callable[[Tensor, Tensor], Tensor]
"""eps(x_t, t): (N, D), (N,) -> (N, D)."""

WEIGHTINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "constant": lambda alpha, sigma: torch.ones_like(sigma),
    "sigma": lambda alpha, sigma: sigma,
    "sigma2": lambda alpha, sigma: sigma**2,
    "sigma2/alpha": lambda alpha, sigma: sigma**2 / alpha,
}
"""lambda(t) by name, which weighs the loss L1 + k L2 of a token at timestep t.

A score is of size 1 / sigma_t, and the gradient reaches x_0 with a factor alpha_t.
"""


def pseudo_huber(y: Float[Tensor, "N D"], r: float) -> tuple[Float[Tensor, " N"], Float[Tensor, "N D"]]:
    """Return d(y) = sqrt(|y|^2 + r^2) - r and its gradient d'(y) = y / sqrt(|y|^2 + r^2)."""
    norm = (y.square().sum(-1) + r**2).sqrt()
    return norm - r, y / norm.unsqueeze(-1)


def squared(y: Float[Tensor, "N D"]) -> tuple[Float[Tensor, " N"], Float[Tensor, "N D"]]:
    """Return d(y) = |y|^2 and its gradient 2 y: SiD's distance."""
    return y.square().sum(-1), 2 * y


@dataclass(frozen=True)
class GeneratorStep:
    """Gradient of the generator's loss with respect to the student's tokens, and what to log.

    `gradient` is dL/dx_0 of the mean over tokens, (N, D), detached.
    """

    gradient: Float[Tensor, "N D"]
    metrics: dict[str, Tensor]

    def surrogate(self, x_0: Float[Tensor, "N D"]) -> Loss:
        """Return sum(x_0 * dL/dx_0): its gradient in the student's weights is that of the loss."""
        return Loss((x_0 * self.gradient).sum(), self.metrics)


def gsim_generator(
    x_0: Float[Tensor, "N D"],
    t: Int64[Tensor, " N"],
    noise: Float[Tensor, "N D"],
    teacher: Noise,
    auxiliary: Noise,
    diffusion: Diffusion,
    config: GSIMConfig,
) -> GeneratorStep:
    """Find dL/dx_0 at student tokens `x_0`, timesteps `t` (0..999) and noise e ~ N(0, I).

    `teacher` is already guided. Neither it nor `auxiliary` gets a gradient in its weights.
    """
    alpha, sigma = diffusion.alpha_sigma(t)
    x_t = (alpha * x_0.detach() + sigma * noise).requires_grad_()
    with torch.enable_grad():
        score_auxiliary = -auxiliary(x_t, t) / sigma
        y = score_auxiliary - (-teacher(x_t, t) / sigma)
        distance, slope = squared(y) if config.distance == "squared" else pseudo_huber(y, config.huber_radius)
        l1 = -(slope * (score_auxiliary + noise / sigma)).sum(-1)
        l2 = distance.detach() if config.detach_l2 else distance
        weight = WEIGHTINGS[config.weighting](alpha, sigma).squeeze(-1)
        loss = (weight * (l1 + config.k * l2)).mean()
    (gradient,) = torch.autograd.grad(loss, x_t)
    metrics = {"loss": loss, "l1": l1.mean(), "l2": distance.mean(), "gradient": gradient.norm() * len(x_t) ** 0.5}
    return GeneratorStep(alpha * gradient, {name: value.detach() for name, value in metrics.items()})
