"""The second stage as a whole: places the actors, trains, measures the reward before and after."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import ray
import torch
from ray.util.placement_group import placement_group, remove_placement_group

from actors.crew.judge import Judge
from actors.crew.pool import Crew, Feed, about, hire
from actors.crew.reward import RewardWorker
from actors.crew.rollout import RolloutWorker
from actors.crew.shares import joined
from actors.learning.held_out import BEST
from actors.learning.learner import AVERAGE
from actors.learning.plan import Plan
from actors.learning.rl import RLRun
from actors.learning.trainer import train
from actors.patience import Patience, started
from actors.resources import resources
from marval_ray.config import PlacementConfig
from marval_ray.draws import Draws
from marval_ray.files.flat import DTYPES, pack
from marval_ray.files.storage import Storage
from marval_ray.reinforce.objective import rollout_sampler
from marval_ray.runs.stage import RL
from marval_ray.types import Rollout, TimedRollout, Tokens

MEASURED_BATCH = 1_000_000
"""Number of the batch on which the reward is measured: no update comes so far."""


@dataclass(frozen=True)
class Outcome:
    """checkpoint: the file with the final student, the best by the guard; reward figures over fixed images."""

    checkpoint: Path
    reward_before: float
    reward_before_std: float
    reward_after: float


def role_demands(rl: PlacementConfig, judged: bool) -> dict[str, list[dict[str, float]]]:
    """Return the resources of each actor, by role. A colocated reward actor takes its share of a rollout actor's bundle."""
    rollouts, rewards, judge = (
        [resources(role.cpus, role.gpus, role.node)] * role.count for role in (rl.rollout, rl.reward, rl.judge)
    )
    judges = {"judge": judge[:1]} if judged else {}
    if not rl.colocate:
        return {"rollout": rollouts, "reward": rewards} | judges
    shared = resources(rl.rollout.cpus + rl.reward.cpus, rl.rollout.gpus + rl.reward.gpus, rl.rollout.node)
    return {"rollout with reward": [shared] * rl.rollout.count} | judges


@contextmanager
def hired(plan: Plan, timeout: float = 300) -> Iterator[Crew]:
    """Yield the actors, one small bundle each, once they have started.

    Raises ValueError when the cluster has no room for them in time, and WorkerError when one cannot start.
    """
    rl, model = plan.rl, plan.model
    demands = role_demands(rl, plan.judge is not None)
    bundles = [bundle for needs in demands.values() for bundle in needs]
    group = placement_group(bundles, strategy="PACK")
    if not group.wait(timeout):
        remove_placement_group(group)
        raise ValueError(f"no room for {demands} within {timeout} s: other jobs hold the cluster's resources")
    own = list(range(len(bundles)))
    first = own[: rl.rollout.count]
    second = [first[i % len(first)] for i in range(rl.reward.count)] if rl.colocate else own[rl.rollout.count :][: rl.reward.count]
    rollouts = hire(RolloutWorker, rl.rollout, "rollout", group, first, model, rollout_sampler(model, rl))
    rewards = hire(RewardWorker, rl.reward, "reward", group, second, model, plan.codec, rl.rewards)
    judge = None
    if plan.judge is not None:
        (judge,) = hire(Judge, rl.judge, "judge", group, own[-1:], model, plan.codec, *plan.judge, plan.prompts, plan.guard)
    crew = Crew(rollouts, rewards, judge)
    try:
        # One that is replaced has to start again before it answers, on a machine that is then busy.
        with about(rl.rewards):
            seconds = started(crew.by_name())
        yield replace(crew, answer_seconds=rl.timeout + 2 * seconds)
    finally:
        for actor in crew.by_name().values():
            ray.kill(actor)
        remove_placement_group(group)


def try_reward(plan: Plan) -> None:
    """Have a reward worker score images of noise: what is wrong with the reward should show before hours of work.

    Raises WorkerError when it is.
    """
    c, rl = plan.model, plan.rl
    noise = torch.randn(2, c.num_tokens, c.token_channels, generator=torch.Generator().manual_seed(0))
    drawn = TimedRollout(Rollout(Tokens(noise), plan.prompts.in_turn(2), Draws(0, (0, 1)), loops=1, version=0, checksum=0), 0.0)
    group = placement_group([resources(rl.reward.cpus, rl.reward.gpus, rl.reward.node)])
    try:
        (worker,) = hire(RewardWorker, rl.reward, "reward", group, [0], c, plan.codec, rl.rewards)
        with about(rl.rewards):
            patience = Patience(rl.timeout + 2 * started({"reward-0": worker}), replacements=0)
            patience.results([worker.score.remote(drawn)], lambda _: {"reward-0": worker})
        ray.kill(worker)
    finally:
        remove_placement_group(group)


def reinforce(plan: Plan, storage: Storage) -> Outcome:
    """Train in `storage`, from its last checkpoint if there is one."""
    with hired(plan) as crew:
        before = reward_of(plan, crew, plan.student)
        last = train(RLRun.of(plan, crew), storage, RL)
        best = last / BEST
        final = best if best.exists() else last / AVERAGE
        after = reward_of(plan, crew, final)
    return Outcome(final, before.mean().item(), before.std().item(), after.mean().item())


def reward_of(plan: Plan, crew: Crew, checkpoint: Path) -> torch.Tensor:
    """Return the scores of `measured` images of a student in the first of `loops`, the same seeds and classes each time."""
    weights: dict[str, torch.Tensor] = dict(plan.model.family.read(checkpoint, plan.model).named_parameters())
    feed = Feed(crew, replace(plan.rl, loops=plan.rl.loops[:1]), plan.measured, plan.prompts, plan.seed + 1)
    feed.publish(pack(weights, -1, DTYPES[plan.rl.weight_dtype]))
    _, scored = joined(feed.whole_batch(MEASURED_BATCH))
    return scored.score
