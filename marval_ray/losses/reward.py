"""Losses of the second stage: make the reward of whole images rise (MARVAL, arXiv 2511.15190, section on RL).

Pathwise: the reward worker has d r / d latent, so sum(latent * d r / d latent) has the gradient of the reward in the
student's weights. Policy gradient: the one-step prediction is the mean of a Gaussian policy, and advantages within a
group of images of one prompt weigh its likelihood (GRPO, arXiv 2402.03300, clipped as in PPO, arXiv 1707.06347).
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from marval_ray.losses.base import Loss


def pathwise(tokens: Float[Tensor, "B L D"], gradient: Float[Tensor, "B L D"], weight: Float[Tensor, " B"]) -> Loss:
    """- mean_b weight_b sum(tokens_b * gradient_b), with `gradient` = d score / d tokens and `weight` constants."""
    inner = (tokens * gradient).flatten(1).sum(1)
    size = (weight[:, None] * gradient.flatten(1)).norm(dim=1).mean()
    return Loss(-(weight * inner).mean(), {"reward_gradient": size})


def saturation(score: Float[Tensor, " B"], cap: float, width: float) -> Float[Tensor, " B"]:
    """d/d score of the saturating reward -width softplus((cap - score) / width): 1 far below `cap`, 0 far above."""
    return torch.sigmoid((cap - score) / width)


def drift(prediction: Float[Tensor, "N D"], initial: Float[Tensor, "N D"]) -> Float[Tensor, ""]:
    """Mean over tokens of |G - G_0|^2 / 2: KL between unit Gaussians around the student and the one it began as."""
    return 0.5 * (prediction - initial).square().sum(-1).mean()


def group_advantages(score: Float[Tensor, " B"], good: Bool[Tensor, " B"], group: int) -> Float[Tensor, " B"]:
    """(r - mean) / std within each run of `group` images (of one prompt); images that are not `good` count as zero.

    A group whose scores are all equal has no advantage.
    """
    values = torch.where(good, score, torch.nan).unflatten(0, (-1, group))
    mean = values.nanmean(1, keepdim=True)
    std = (values - mean).square().nanmean(1, keepdim=True).sqrt()
    return ((values - mean) / (std + 1e-6)).flatten().nan_to_num(0.0)


def log_ratio(
    action: Float[Tensor, "N D"], mean: Float[Tensor, "N D"], exploration: Float[Tensor, "N D"], std: float
) -> Float[Tensor, " N"]:
    """log pi(action) - log pi_old(action) of a token, for Gaussians of standard deviation `std`.

    The old mean is not needed: action = old mean + std * exploration.
    """
    return 0.5 * (exploration.square() - ((action - mean) / std).square()).sum(-1)


def clipped_policy(log_ratios: Float[Tensor, " N"], advantages: Float[Tensor, " N"], clip: float) -> Loss:
    """- mean min(rho A, clamp(rho, 1 - clip, 1 + clip) A), rho the importance ratio of a token."""
    ratio = log_ratios.exp()
    inner = torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    outside = ((ratio - 1).abs() > clip).float().mean()
    return Loss(-inner.mean(), {"clipped": outside, "ratio": ratio.detach().mean()})
