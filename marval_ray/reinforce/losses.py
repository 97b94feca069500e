"""Losses of the second stage: make the reward of whole images rise (MARVAL, arXiv 2511.15190, section on RL).

Pathwise: the reward worker has d r / d tokens, so sum(tokens * d r / d tokens) has the gradient of the reward in the
student's weights. Policy gradient: the one-step prediction is the mean of a Gaussian policy, and advantages within a
group of images of one prompt weigh its likelihood (GRPO, arXiv 2402.03300, clipped as in PPO, arXiv 1707.06347).
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from marval_ray.loss import Loss


def pathwise(tokens: Float[Tensor, "B L D"], gradient: Float[Tensor, "B L D"], weight: Float[Tensor, " B"]) -> Loss:
    """Return - mean_b weight_b sum(tokens_b * gradient_b), with `gradient` = d score / d tokens and `weight` constants."""
    inner = (tokens * gradient).flatten(1).sum(1)
    size = (weight[:, None] * gradient.flatten(1)).norm(dim=1).mean()
    return Loss(-(weight * inner).mean(), {"reward_gradient": size})


def saturation(score: Float[Tensor, " B"], cap: float, width: float) -> Float[Tensor, " B"]:
    """Return d/d score of the saturating reward -width softplus((cap - score) / width): 1 far below `cap`, 0 far above."""
    return torch.sigmoid((cap - score) / width)


def mean_and_std(score: Float[Tensor, " B"], add_up: Callable[[Tensor], object]) -> tuple[float, float] | None:
    """Return mean and standard deviation (at least 1e-6) of all ranks' scores, whose sums `add_up` adds in place; None without a score."""
    exact = score.double()  # in float32 large scores would lose their spread
    sums = torch.stack([exact.sum(), exact.square().sum(), exact.new_tensor(len(exact))])
    add_up(sums)
    total, squares, count = sums.tolist()
    if not count:
        return None
    return total / count, max(squares / count - (total / count) ** 2, 1e-12) ** 0.5


def drift(prediction: Float[Tensor, "N D"], initial: Float[Tensor, "N D"]) -> Float[Tensor, ""]:
    """Return the mean over tokens of |G - G_0|^2 / 2: KL between unit Gaussians around the student and the one it began as."""
    return 0.5 * (prediction - initial).square().sum(-1).mean()


def code_drift(log_probs: Float[Tensor, "N V"], initial: Float[Tensor, "N V"]) -> Float[Tensor, ""]:
    """Return the mean over codes of KL(pi || pi_0): the student against the one it began as, all V codes of each place."""
    return (log_probs.exp() * (log_probs - initial)).sum(-1).mean()


class ClassShift:
    """How far predictions of a class at a position went, on average, from those of the initial student.

    A reward's gradient has a part that all images of a class share. Networks learn it first, and it is what takes the
    samples away from the data (Frechet distance) while it says nothing about the single image, so it has a price of its own.
    """

    momentum = 0.8
    """Of the running mean; a few images of a class in an update are too few to tell its shift."""

    def __init__(self, classes: int, length: int, channels: int, device: torch.device):
        self.length = length
        self.mean = torch.zeros(classes * length, channels, device=device)

    def cells(self, labels: Int64[Tensor, " B"], places: Int64[Tensor, "B P"]) -> Int64[Tensor, " N"]:
        """Return the row of `mean` of each predicted token."""
        return (labels[:, None] * self.length + places).flatten()

    def sums(self, cells: Int64[Tensor, " N"], difference: Float[Tensor, "N D"]) -> Float[Tensor, "C D1"]:
        """Sum the differences of each cell, and in the last column their number; to be added up over ranks."""
        ones = difference.new_ones(len(difference), 1)
        return difference.new_zeros(len(self.mean), difference.shape[1] + 1).index_add_(0, cells, torch.cat([difference, ones], 1))

    def update(self, sums: Float[Tensor, "C D1"]) -> None:
        """Move the running mean of the cells that were met."""
        count = sums[:, -1:]
        self.mean = torch.where(count > 0, self.mean.lerp(sums[:, :-1] / count.clamp(min=1), 1 - self.momentum), self.mean)

    def penalty(self, cells: Int64[Tensor, " N"], prediction: Float[Tensor, "N D"]) -> Float[Tensor, ""]:
        """Return what has the gradient of half the mean square of the shift, with the running mean in the place of this batch's."""
        return (self.mean[cells] * prediction).sum(-1).mean()


def group_advantages(score: Float[Tensor, " B"], good: Bool[Tensor, " B"], group: int) -> Float[Tensor, " B"]:
    """Return (r - mean) / std within each run of `group` images (of one prompt); images that are not `good` count as zero.

    A group whose scores are all equal has no advantage.
    """
    values = torch.where(good, score, torch.nan).unflatten(0, (-1, group))
    mean = values.nanmean(1, keepdim=True)
    std = (values - mean).square().nanmean(1, keepdim=True).sqrt()
    return ((values - mean) / (std + 1e-6)).flatten().nan_to_num(0.0)


def log_ratio(
    action: Float[Tensor, "N D"], mean: Float[Tensor, "N D"], old_mean: Float[Tensor, "N D"], std: float
) -> Float[Tensor, " N"]:
    """Return log pi(action) - log pi_old(action) of a token, for Gaussians of standard deviation `std` around the two means.

    Zero, with the gradient (action - mean) / std^2 of log pi, where `old_mean` is `mean` without its gradient.
    """
    old, new = (action - old_mean) / std, (action - mean) / std
    return 0.5 * (old.square() - new.square()).sum(-1)


def clipped_policy(log_ratios: Float[Tensor, " N"], advantages: Float[Tensor, " N"], clip: float) -> Loss:
    """Return - mean min(rho A, clamp(rho, 1 - clip, 1 + clip) A), rho the importance ratio of a token."""
    ratio = log_ratios.exp()
    inner = torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    outside = ((ratio - 1).abs() > clip).float().mean()
    return Loss(-inner.mean(), {"clipped": outside, "ratio": ratio.detach().mean()})
