"""Features and rewards of many images, for FID and its kin: workers draw images or are handed them, and nobody holds all of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import ray
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from actors.patience import results_of
from actors.resources import check_resources, node_resources, resources, visible
from marval_ray.config import RoleConfig
from marval_ray.device import worker_device
from marval_ray.evaluation.inception import Inception, InceptionFeatures
from marval_ray.families.generation import Generation
from marval_ray.files.images import to_pixels, to_tensor
from marval_ray.rewards import SeparateRewards
from marval_ray.types import Prompts

BATCH = 50
"""Images that Inception looks at together."""
Pixels = UInt8[np.ndarray, "N H W C"]


@dataclass(frozen=True)
class Seen:
    """Features of some images, their scores by each reward, and the images themselves where somebody keeps them."""

    features: InceptionFeatures
    scores: dict[str, Float[Tensor, " N"]]
    pixels: Pixels | None = None


@dataclass(frozen=True)
class Shared:
    """In Ray's object store for all workers: the network and, unless the images are there already, what draws them.

    rewards: [WEIGHT*]KIND:PLACE, which each worker reads by itself.
    """

    inception: ray.ObjectRef
    generation: ray.ObjectRef
    rewards: tuple[str, ...]


class FeatureWorker:
    """Looks at images, and draws them. What it works with is an argument of every call: a restarted worker needs no other state."""

    def __init__(self, threads: int):
        self.device = worker_device(threads)
        self.inception: Inception | None = None
        self.rewards: SeparateRewards | None = None
        self.generation: Generation | None = None

    def look(self, shared: Shared, pixels: Pixels, texts: Sequence[str] = ()) -> Seen:
        """Return the features of images and, of those that have prompts, the scores."""
        inception, rewards = self._lookers(shared)
        pixels = np.array(pixels)  # what came through Ray's object store is read-only
        parts = [inception(part) for part in torch.from_numpy(pixels).permute(0, 3, 1, 2).split(BATCH)]
        return Seen(InceptionFeatures.cat(parts), rewards(to_tensor(pixels), texts) if texts else {})

    def draw(self, shared: Shared, prompts: Prompts, seed: int, first: int, keep: bool) -> Seen:
        """Draw the images number `first`.. and return their features and scores."""
        self._lookers(shared)  # a reward that cannot be read is said before anything is drawn
        if self.generation is None:
            self.generation = ray.get(shared.generation).on(self.device)
        pixels = to_pixels(self.generation.images(prompts, seed, first=first))
        return replace(self.look(shared, pixels, prompts.texts), pixels=pixels if keep else None)

    def _lookers(self, shared: Shared) -> tuple[Inception, SeparateRewards]:
        if self.inception is None or self.rewards is None:
            self.rewards = SeparateRewards.load(shared.rewards, self.device)
            self.inception = ray.get(shared.inception).to(self.device)
        return self.inception, self.rewards


@dataclass(frozen=True)
class Piece:
    """Some of the images, by their number, and what a worker is asked to do with them."""

    number: int
    task: Literal["look", "draw"]
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Team:
    workers: list[Any]
    shared: Shared


def hire(role: RoleConfig, inception: Inception, generation: Generation | None, rewards: tuple[str, ...]) -> Team:
    """Start the workers. Raises ValueError when they do not fit into the cluster."""
    needs = resources(role.cpus, role.gpus, role.node)
    check_resources({"worker": [needs] * role.count}, node_resources())
    remote: Any = ray.remote(FeatureWorker)
    own = {name: amount for name, amount in needs.items() if name not in ("CPU", "GPU")}
    workers = [
        remote.options(
            num_cpus=role.cpus, num_gpus=role.gpus, resources=own, max_restarts=-1, max_task_retries=-1, name=f"features-{index}",
            **visible(role.gpus),
        ).remote(role.threads)
        for index in range(role.count)
    ]  # fmt: skip
    return Team(workers, Shared(ray.put(inception), ray.put(generation), rewards))


def gather(team: Team, pieces: Iterator[Piece]) -> Iterator[tuple[int, Seen]]:
    """Yield (number, what was seen) of each piece as it comes; each worker has one at a time. Raises WorkerError."""
    idle, waiting = list(team.workers), {}
    for piece in pieces:
        worker = idle.pop()
        asked = getattr(worker, piece.task).remote(team.shared, *piece.arguments)
        waiting[asked] = piece.number, worker
        while not idle:
            yield _next(waiting, idle)
    while waiting:
        yield _next(waiting, idle)


def _next(waiting: dict[ray.ObjectRef, tuple[int, Any]], idle: list[Any]) -> tuple[int, Seen]:
    (done,), _ = ray.wait(list(waiting), num_returns=1)
    number, worker = waiting.pop(done)
    idle.append(worker)
    return number, results_of([done])[0]
