"""Reward worker: owns decoder and reward model, scores rollouts. A plain class; `actors.crew.pool` makes actors of it."""

import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from marval_ray.device import worker_device
from marval_ray.families.base import FamilyConfig
from marval_ray.reinforce.scoring import Scorer
from marval_ray.rewards import load_reward
from marval_ray.types import Delivery, Scored, TimedRollout


class RewardWorker:
    """`rewards` are [WEIGHT*]KIND:PLACE.

    It loads them at its first call: what is wrong with them is then an answer, which Ray would not print and try again.
    """

    def __init__(
        self, config: FamilyConfig, codec: Path, rewards: Sequence[str], threads: int = 1
    ):
        self.device = worker_device(threads)
        self.config, self.codec, self.rewards = config, codec, rewards

    @cached_property
    def scorer(self) -> Scorer:
        """Codec and rewards."""
        codec = self.config.family.codec(self.codec, self.config).to(self.device)
        return Scorer(codec, load_reward(self.rewards, self.device))

    def start(self) -> None:
        """Load what it works with. Raises what loading raises."""
        self.scorer  # noqa: B018  (the first look at it loads it)

    def score(self, drawn: TimedRollout) -> Delivery:
        """Score the images of a rollout."""
        began = time.perf_counter()
        rollout = drawn.rollout
        scored = self.scorer(rollout.tokens.to(self.device), rollout.prompts)
        gradient = None if scored.gradient is None else scored.gradient.float().cpu()
        return Delivery(rollout, Scored(scored.score.cpu(), gradient), drawn.seconds, time.perf_counter() - began)
