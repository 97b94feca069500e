"""Features of many images, for FID and its kin: workers draw images or are handed them, and nobody holds all of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import ray
import torch
from jaxtyping import UInt8

from actors.patience import results_of
from actors.resources import check_resources, node_resources, resources, visible
from marval_ray.config import RoleConfig
from marval_ray.device import worker_device
from marval_ray.evaluation.inception import Inception, InceptionFeatures
from marval_ray.families.generation import Generation
from marval_ray.files.images import to_pixels
from marval_ray.types import Prompts

BATCH = 50
"""Images that Inception looks at together."""
Pixels = UInt8[np.ndarray, "N H W C"]


@dataclass(frozen=True)
class Seen:
    """Features of some images, and the images themselves where somebody keeps them."""

    features: InceptionFeatures
    pixels: Pixels | None = None


@dataclass(frozen=True)
class Shared:
    """In Ray's object store for all workers: the network and, unless the images are there already, what draws them."""

    inception: ray.ObjectRef
    generation: ray.ObjectRef


class FeatureWorker:
    """Looks at images, and draws them. What it works with is an argument of every call: a restarted worker needs no other state."""

    def __init__(self, threads: int):
        self.device = worker_device(threads)
        self.inception: Inception | None = None
        self.generation: Generation | None = None

    def look(self, shared: Shared, pixels: Pixels) -> Seen:
        """Return the features of images."""
        if self.inception is None:
            self.inception = ray.get(shared.inception).to(self.device)
        images = torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2)  # what came through Ray's object store is read-only
        parts = [self.inception(part) for part in images.split(BATCH)]
        return Seen(InceptionFeatures.cat(parts))

    def draw(self, shared: Shared, prompts: Prompts, seed: int, first: int, keep: bool) -> Seen:
        """Draw the images number `first`.. and return their features."""
        if self.generation is None:
            self.generation = ray.get(shared.generation).on(self.device)
        pixels = to_pixels(self.generation.images(prompts, seed, first=first))
        return Seen(self.look(shared, pixels).features, pixels if keep else None)


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


def hire(role: RoleConfig, inception: Inception, generation: Generation | None) -> Team:
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
    return Team(workers, Shared(ray.put(inception), ray.put(generation)))


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
