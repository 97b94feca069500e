"""Rewards: PickScore, CLIP score, HPSv2, ImageReward, plug-ins, and weighted sums of them."""

from marval_ray.rewards.base import Reward, WeightedSum
from marval_ray.rewards.spec import check_rewards, load_reward

__all__ = ["Reward", "WeightedSum", "check_rewards", "load_reward"]
