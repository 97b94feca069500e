"""The second stage as a whole: places the actors, trains, measures the reward before and after."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import ray
import torch
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

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
from marval_ray.rewards.spec import held_out_names
from marval_ray.runs.stage import RL
from marval_ray.types import Rollout, TimedRollout, Tokens

MEASURED_BATCH = 1_000_000
"""Number of the batch on which the reward is measured: no update comes so far."""


@dataclass(frozen=True)
class Outcome:
    """checkpoint: the file with the final student, the best by the guard; reward figures over fixed images.

    held_out: those of each reward that nothing learnt from, by their names in summary.json.
    """

    checkpoint: Path
    reward_before: float
    reward_before_std: float
    reward_after: float
    held_out: dict[str, float]


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
def hired(plan: Plan, timeout: float = 300, crew_name: str = "") -> Iterator[Crew]:
    """Yield the actors, one small bundle each, once they have started. crew_name: goes before each one's name in the dashboard.

    Raises ValueError when the cluster has no room for them in time, and WorkerError when one cannot start.
    """
    rl, model, texts = plan.rl, plan.model, plan.matching.texts
    demands = role_demands(rl, plan.judge is not None)
    bundles = [bundle for needs in demands.values() for bundle in needs]
    group = placement_group(bundles, strategy="PACK")
    if not group.wait(timeout):
        remove_placement_group(group)
        raise ValueError(f"no room for {demands} within {timeout} s: other jobs hold the cluster's resources")
    own = list(range(len(bundles)))
    first = own[: rl.rollout.count]
    second = [first[i % len(first)] for i in range(rl.reward.count)] if rl.colocate else own[rl.rollout.count :][: rl.reward.count]
    rollouts = hire(RolloutWorker, rl.rollout, f"{crew_name}rollout", group, first, model, rollout_sampler(model, rl), texts)
    rewards = hire(RewardWorker, rl.reward, f"{crew_name}reward", group, second, model, plan.codec, rl.rewards)
    judge = None
    if plan.judge is not None:
        judged = plan.codec, *plan.judge, plan.prompts, plan.guard, texts
        (judge,) = hire(Judge, rl.judge, f"{crew_name}judge", group, own[-1:], model, *judged)
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


def try_rewards(plan: Plan) -> None:
    """Have a reward worker score images of noise: what is wrong with a reward should show before hours of work.

    Raises WorkerError when it is.
    """
    c, rl = plan.model, plan.rl
    noise = torch.randn(2, c.num_tokens, c.token_channels, generator=torch.Generator().manual_seed(0))
    tokens = Tokens(noise, torch.zeros(noise.shape[:2], dtype=torch.long))  # codes, for those that have some
    drawn = TimedRollout(Rollout(tokens, plan.prompts.in_turn(2), Draws(0, (0, 1)), loops=1, version=0, checksum=0), 0.0)
    group = placement_group([resources(rl.reward.cpus, rl.reward.gpus, rl.reward.node)])
    try:
        try_reward(plan, drawn, group, "reward", rl.rewards)
        if rl.held_out_rewards:  # apart: the sum of one with a gradient and one without has none
            try_reward(plan, drawn, group, "held-out", rl.held_out_rewards)
    finally:
        remove_placement_group(group)


def try_reward(plan: Plan, drawn: TimedRollout, group: PlacementGroup, name: str, rewards: tuple[str, ...]) -> None:
    """Have one worker, in the only bundle of `group`, score `drawn`, and end it."""
    (worker,) = hire(RewardWorker, plan.rl.reward, name, group, [0], plan.model, plan.codec, rewards)
    with about(rewards):
        patience = Patience(plan.rl.timeout + 2 * started({f"{name}-0": worker}), replacements=0)
        patience.results([worker.score.remote(drawn)], lambda _: {f"{name}-0": worker})
    ray.kill(worker)


def reinforce(plan: Plan, storage: Storage) -> Outcome:
    """Train in `storage`, from its last checkpoint if there is one."""
    with hired(plan) as crew:
        before = reward_of(plan, crew, plan.student)
        last = train(RLRun.of(plan, crew), storage, RL)
        best = last / BEST
        final = best if best.exists() else last / AVERAGE
        after = reward_of(plan, crew, final)
    return Outcome(final, before.mean().item(), before.std().item(), after.mean().item(), held_out_of(plan, final))


def held_out_of(plan: Plan, final: Path) -> dict[str, float]:
    """Measure the rewards that nothing learnt from, one after the other, on images of the student before RL and of the final one."""
    found: dict[str, float] = {}
    for name, text in held_out_names(plan.rl.held_out_rewards).items():
        with hired(replace(plan, rl=replace(plan.rl, rewards=(text,)), judge=None), crew_name=f"{name}-") as crew:
            before, after = (reward_of(plan, crew, checkpoint) for checkpoint in (plan.student, final))
        found |= {f"{name}_before": before.mean().item(), f"{name}_before_std": before.std().item(), f"{name}_after": after.mean().item()}
    return found


def reward_of(plan: Plan, crew: Crew, checkpoint: Path) -> torch.Tensor:
    """Return the scores of `measured` images of a student in the first of `loops`, the same seeds and classes each time."""
    weights: dict[str, torch.Tensor] = dict(plan.model.family.read(checkpoint, plan.model).named_parameters())
    feed = Feed(crew, replace(plan.rl, loops=plan.rl.loops[:1]), plan.measured, plan.prompts, plan.seed + 1)
    feed.publish(pack(weights, -1, DTYPES[plan.rl.weight_dtype]))
    _, scored = joined(feed.whole_batch(MEASURED_BATCH))
    return scored.score
