"""What a reward is, and sums of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Reward(Protocol):
    """Scores images against their prompts; higher is better."""

    @property
    def differentiable(self) -> bool:
        """Whether gradients reach the images."""

    def __call__(self, images: Float[Tensor, "B C H W"], prompts: Sequence[str]) -> Float[Tensor, " B"]:
        """Return one score for each image in [-1, 1] (C is 1 or 3)."""


@dataclass(frozen=True)
class WeightedSum:
    """sum_i weight_i reward_i. names: what errors call them."""

    rewards: tuple[Reward, ...]
    weights: tuple[float, ...]
    names: tuple[str, ...]

    @property
    def differentiable(self) -> bool:
        return all(reward.differentiable for reward in self.rewards)

    def __call__(self, images: Float[Tensor, "B C H W"], prompts: Sequence[str]) -> Float[Tensor, " B"]:
        parts = zip(self.rewards, self.weights, self.names)
        first, *rest = (weight * checked(reward(images, prompts), images, reward, name) for reward, weight, name in parts)
        return sum(rest, start=first)


def checked(score: object, images: Float[Tensor, "B C H W"], reward: Reward, name: str) -> Float[Tensor, " B"]:
    """Return `score`, which `reward` gave `images`. Raises ValueError when it is no score for each, or lacks its gradient."""
    if not isinstance(score, Tensor) or not score.is_floating_point() or score.shape != images.shape[:1]:
        found = f"{score.dtype} {tuple(score.shape)}" if isinstance(score, Tensor) else type(score).__name__
        raise ValueError(f"reward {name} gave {found} for {len(images)} images: scores are a floating-point tensor ({len(images)},)")
    if reward.differentiable and images.requires_grad and not score.requires_grad:
        raise ValueError(f"reward {name} calls itself differentiable, but its scores have no gradient: say differentiable = False")
    return score
