"""Batches of scored rollouts: put together from their parts, shared out among the learner's ranks."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from actors.crew.pool import Feed
from marval_ray.draws import Draws
from marval_ray.types import Delivery, Prompts, Rollout, Scored, Tokens, Weights


@dataclass(frozen=True)
class Share:
    """One rank's part of a batch, and how the actors did on the whole."""

    rollout: Rollout
    scored: Scored
    flow: dict[str, float]


def joined(deliveries: Sequence[Delivery]) -> tuple[Rollout, Scored]:
    """Make one rollout and its scores from the parts, in their order."""
    first = deliveries[0].rollout
    rollout = replace(
        first,
        tokens=Tokens.cat([d.rollout.tokens for d in deliveries]),
        prompts=Prompts.cat([d.rollout.prompts for d in deliveries]),
        draws=Draws.cat([d.rollout.draws for d in deliveries]),
    )
    gradients = [d.scored.gradient for d in deliveries if d.scored.gradient is not None]
    return rollout, Scored(torch.cat([d.scored.score for d in deliveries]), torch.cat(gradients) if gradients else None)


def split(rollout: Rollout, scored: Scored, parts: int) -> list[tuple[Rollout, Scored]]:
    """Return equal parts, in order."""
    size = len(rollout) // parts
    cuts = [slice(i * size, (i + 1) * size) for i in range(parts)]
    return [(rollout[cut], scored[cut]) for cut in cuts]


def flow_metrics(deliveries: Sequence[Delivery], waited: float, passed: float, step: int, feed: Feed) -> dict[str, float]:
    """Tell how the actors did in one batch: ms an image, idle shares, staleness, queue, weights.

    waited: seconds that the learner stood still for it; passed: seconds since the batch before it.
    """
    images = sum(len(d.rollout) for d in deliveries)
    rollout, reward = (sum(d.rollout_seconds for d in deliveries), sum(d.reward_seconds for d in deliveries))
    return {
        "flow/rollout_ms": 1e3 * rollout / images,
        "flow/reward_ms": 1e3 * reward / images,
        "flow/learner_ms": 1e3 * (passed - waited) / images,
        "flow/rollout_idle": 1 - rollout / (passed * len(feed.crew.rollouts)),
        "flow/reward_idle": 1 - reward / (passed * len(feed.crew.rewards)),
        "flow/learner_idle": waited / passed,
        "flow/staleness": step - min(d.rollout.version for d in deliveries),
        "flow/queued_batches": len(feed.flights),
        "flow/sync_ms": 1e3 * feed.sync_seconds,
        "flow/sync_megabytes": feed.sync_bytes / 1e6,
        "flow/replaced_workers": feed.replaced,
    }


class Shares:
    """Deals the batches of a feed out to the ranks, and takes the time. Lives on rank 0."""

    def __init__(self, feed: Feed, ranks: int):
        self.feed, self.ranks = feed, ranks
        self.delivered = time.perf_counter()

    def begin(self, step: int, weights: Weights) -> None:
        """Start with batch `step`, drawn with `weights`."""
        self.feed.begin(step, weights)
        self.delivered = time.perf_counter()

    def deal(self, step: int) -> list[Share]:
        """Return the parts of batch `step`, one a rank. Raises what `Feed.batch` raises."""
        began = time.perf_counter()
        deliveries = self.feed.batch(step)
        before, self.delivered = self.delivered, time.perf_counter()
        flow = flow_metrics(deliveries, self.delivered - began, self.delivered - before, step, self.feed)
        return [Share(*part, flow) for part in split(*joined(deliveries), self.ranks)]
