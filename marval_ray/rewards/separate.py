"""Several rewards of the same images, each by itself, as evaluation reports them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from marval_ray.rewards.base import Reward
from marval_ray.rewards.spec import check_rewards, load_reward, reward_names

BATCH = 50
"""Images that a reward looks at together."""


@dataclass(frozen=True)
class SeparateRewards:
    """rewards: by what their figures are called. device: of their weights."""

    rewards: Mapping[str, Reward]
    device: torch.device

    @staticmethod
    def check(texts: Sequence[str]) -> None:
        """Raise ValueError as `check_rewards` does, or when two are of one kind; takes no memory for weights."""
        reward_names(texts)
        check_rewards(texts)

    @classmethod
    def load(cls, texts: Sequence[str], device: torch.device) -> "SeparateRewards":
        """Load the rewards `texts`, each [WEIGHT*]KIND:PLACE. Raises ValueError when one of them cannot be read."""
        return cls({name: load_reward([text], device) for name, text in reward_names(texts).items()}, device)

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "N C H W"], prompts: Sequence[str]) -> dict[str, Float[Tensor, " N"]]:
        """Return what each reward gives images in [-1, 1] for their prompts, on the CPU."""
        starts = range(0, len(images), BATCH)
        return {name: torch.cat([self._score(each, images, prompts, at) for at in starts]) for name, each in self.rewards.items()}

    def _score(self, reward: Reward, images: Tensor, prompts: Sequence[str], at: int) -> Float[Tensor, " B"]:
        return reward(images[at : at + BATCH].to(self.device), prompts[at : at + BATCH]).float().cpu()
