"""What a reward is, and sums of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from jaxtyping import Float
from torch import Tensor


class Reward(Protocol):
    """Scores images against their prompts; higher is better."""

    @property
    def differentiable(self) -> bool:
        """Whether gradients reach the images."""

    def __call__(self, images: Float[Tensor, "B C H W"], prompts: Sequence[str]) -> Float[Tensor, " B"]:
        """One score for each image in [-1, 1] (C is 1 or 3)."""


@dataclass(frozen=True)
class WeightedSum:
    """sum_i weight_i reward_i."""

    rewards: tuple[Reward, ...]
    weights: tuple[float, ...]

    @property
    def differentiable(self) -> bool:
        return all(reward.differentiable for reward in self.rewards)

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        first, *rest = (weight * reward(images, prompts) for reward, weight in zip(self.rewards, self.weights))
        return sum(rest, start=first)
