"""Rewards: PickScore, CLIP score, HPSv2, ImageReward, plug-ins, weighted sums of them, and several side by side."""

from marval_ray.rewards.base import Reward, WeightedSum
from marval_ray.rewards.separate import SeparateRewards
from marval_ray.rewards.spec import check_rewards, load_reward

__all__ = ["Reward", "SeparateRewards", "WeightedSum", "check_rewards", "load_reward"]
