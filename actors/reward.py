"""Reward worker: owns decoder and reward model, scores rollouts. A plain class; `actors.pool` makes actors of it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.rollout import Drawn, own_device
from marval_ray.config import ModelConfig
from marval_ray.models.vae import load_vae
from marval_ray.rewards import load_reward
from marval_ray.scoring import Scorer
from marval_ray.types import Rollout, Scored


@dataclass(frozen=True)
class Delivery:
    """A scored rollout, and the seconds that drawing and scoring took."""

    rollout: Rollout
    scored: Scored
    rollout_seconds: float
    reward_seconds: float


class RewardWorker:
    """`rewards` are [WEIGHT*]KIND:PLACE; `prompts` has one of each class."""

    def __init__(
        self, config: ModelConfig, vae: Path, rewards: Sequence[str], prompts: Sequence[str], threads: int = 1
    ):
        self.device = own_device(threads)
        decoder = load_vae(vae).to(self.device)
        self.scorer = Scorer(decoder, load_reward(rewards, self.device), prompts, config)

    def score(self, drawn: Drawn) -> Delivery:
        """Score the images of a rollout."""
        began = time.perf_counter()
        rollout = drawn.rollout
        scored = self.scorer(rollout.tokens.to(self.device), rollout.labels)
        gradient = None if scored.gradient is None else scored.gradient.float().cpu()
        return Delivery(rollout, Scored(scored.score.cpu(), gradient), drawn.seconds, time.perf_counter() - began)
