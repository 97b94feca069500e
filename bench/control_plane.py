"""Does one controller keep up with many workers? The real flow of batches and hand-over of weights, with workers that only sleep.

    python bench/control_plane.py

Throughput is a share of the ideal: the same flow with control that costs nothing, computed event by event. docs/scaling.md says where
the times come from.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from marval_ray.environment import before_ray

before_ray()

import fake_workers
import numpy as np
import psutil
import ray
from fake_workers import FakeReward, FakeRollout
from ray.util.placement_group import placement_group

from actors.crew.pool import Crew, Feed, hire
from marval_ray import cli
from marval_ray.config import RLConfig, RoleConfig
from marval_ray.evaluation.metrics import markdown_table
from marval_ray.files.atomic import write_json
from marval_ray.types import Prompts, Request, Weights


@dataclass(frozen=True)
class Config:
    actors: tuple[int, ...] = (8, 32, 64, 128)
    """Rollout and reward actors together; one in four scores."""
    rollout_seconds: float = 1.0
    """For an image."""
    reward_seconds: float = 0.2
    learner_seconds: float = 2.5
    """For a batch."""
    chunk: int = 2
    """Images a request; each rollout actor has one request of a batch."""
    batches: int = 10
    gigabytes: tuple[float, ...] = (0.4, 1.9)
    """Weights of MAR-B in bfloat16 and of MAR-H."""
    out: Path | None = None
    """A JSON file for the figures."""


@dataclass(frozen=True)
class Overhead:
    actors: int
    images_per_second: float
    share_of_ideal: float
    controller_cpu_ms_per_request: float
    controller_megabytes: float
    broadcast_seconds: dict[str, float]

    def row(self) -> list[str]:
        handed = ", ".join(f"{size}: {seconds:.2f}" for size, seconds in self.broadcast_seconds.items())
        return [
            str(self.actors), f"{self.images_per_second:.1f}", f"{self.share_of_ideal:.3f}", f"{self.controller_cpu_ms_per_request:.2f}",
            f"{self.controller_megabytes:.0f}", handed,
        ]  # fmt: skip


HEAD = ("actors", "images/s", "share of ideal", "controller's CPU, ms a request", "its memory, MB", "weights handed over, s")


def main(config: Config) -> None:
    found = []
    for actors in config.actors:
        found.append(measure(config, actors))
        if config.out:
            write_json(config.out, [asdict(one) for one in found])
    print(markdown_table(HEAD, [one.row() for one in found]))


def measure(config: Config, actors: int) -> Overhead:
    rewards = actors // 4
    rollouts = actors - rewards
    rl = RLConfig(max_staleness=1, chunk=config.chunk, rollout=RoleConfig(rollouts, cpus=0.01), reward=RoleConfig(rewards, cpus=0.01))
    with crew_of(config, rl) as crew:
        feed = Feed(crew, rl, rollouts * config.chunk, Prompts(("",) * 1000), seed=0)
        wait_for(crew)
        me = psutil.Process()
        feed.begin(0, weights(0, 0.001))
        feed.batch(0)
        cpu, began = sum(me.cpu_times()[:2]), time.perf_counter()
        for step in range(1, config.batches + 1):
            time.sleep(config.learner_seconds)
            feed.publish(weights(step, 0.001))
            feed.batch(step)
        took, cpu = time.perf_counter() - began, sum(me.cpu_times()[:2]) - cpu
        requests = config.batches * rollouts
        return Overhead(
            actors, requests * config.chunk / took, ideal(config, rollouts, rewards) / took, 1000 * cpu / requests,
            me.memory_info().rss / 1e6, {f"{size} GB": broadcast(feed, crew, size) for size in config.gigabytes},
        )  # fmt: skip


@contextmanager
def crew_of(config: Config, rl: RLConfig) -> Iterator[Crew]:
    count = rl.rollout.count + rl.reward.count
    ray.init(num_cpus=4, object_store_memory=8 * 10**9, runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(PATHS)}})
    ray.util.register_serializer(Request, serializer=lambda it: it.draws.indices, deserializer=fake_workers.request)
    ray.util.register_serializer(Weights, serializer=lambda it: it.buffer, deserializer=fake_workers.weights)
    group = placement_group([{"CPU": 0.01}] * count)
    ray.get(group.ready())
    first, second = range(rl.rollout.count), range(rl.rollout.count, count)
    rollouts = hire(FakeRollout, rl.rollout, "rollout", group, first, config.rollout_seconds)
    rewards = hire(FakeReward, rl.reward, "reward", group, second, config.reward_seconds)
    try:
        yield Crew(rollouts, rewards, None)
    finally:
        ray.shutdown()


PATHS = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]


def wait_for(crew: Crew) -> None:
    """Until all actors are there."""
    empty = np.zeros((0, 1), np.float32)
    ray.get([rollout.touch.remote(weights(0, 0.001)) for rollout in crew.rollouts])
    ray.get([reward.score.remote(empty) for reward in crew.rewards])


def weights(version: int, gigabytes: float) -> Weights:
    return Weights(version, np.zeros(int(gigabytes * 1e9) // 4, np.float32), 0)


def broadcast(feed: Feed, crew: Crew, gigabytes: float) -> float:
    """Seconds from handing weights over until each rollout actor has read them."""
    new = weights(1, gigabytes)
    began = time.perf_counter()
    feed.publish(new)
    ray.get([rollout.touch.remote(feed.weights) for rollout in crew.rollouts])
    return time.perf_counter() - began


def ideal(config: Config, rollouts: int, rewards: int) -> float:
    """Seconds for batches 1 to `batches` when asking, answering and moving data cost nothing."""
    draw, score = config.chunk * config.rollout_seconds, config.chunk * config.reward_seconds
    drawing, scoring = [0.0] * rollouts, [0.0] * rewards
    done: dict[int, float] = {}

    def submit(step: int, now: float) -> None:
        ends = []
        for number in range(rollouts):
            drawing[number] = max(now, drawing[number]) + draw
            reward = number % rewards
            scoring[reward] = max(drawing[number], scoring[reward]) + score
            ends.append(scoring[reward])
        done[step] = max(ends)

    submit(0, 0.0)
    submit(1, 0.0)
    first = now = done[0]
    for step in range(1, config.batches + 1):
        now += config.learner_seconds
        submit(step + 1, now)
        now = max(now, done[step])
    return now - first


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
