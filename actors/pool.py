"""Rollout, reward and judge actors, and the flow of batches through them.

Batch t is drawn with weights whose version depends on t alone, its requests go to workers by their number, and its
parts come back in the order of the requests: results do not depend on timing. Calls are stateless, so Ray's own
restarts and retries recover a lost worker; one that does not answer in time is killed, which makes it a lost one.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import ray
import torch
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.reward import Delivery
from marval_ray.config import RLConfig, RoleConfig
from marval_ray.types import Request, Weights


class WorkerLostError(Exception):
    """A worker was replaced again and again without an answer."""


@dataclass(frozen=True)
class Crew:
    """Handles of the actors."""

    rollouts: list[Any]
    rewards: list[Any]
    judge: Any | None


def hire(cls: type, role: RoleConfig, name: str, group: PlacementGroup, bundles: Sequence[int], *args: Any) -> list[Any]:
    """`role.count` named actors of the plain class `cls`, one in each bundle of `group`; Ray restarts them for ever."""
    remote: Any = ray.remote(cls)
    # Ray leaves all GPUs visible to an actor that asked for none.
    hidden = {} if role.gpus else {"runtime_env": {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}}}
    return [
        remote.options(
            num_cpus=role.cpus, num_gpus=role.gpus, max_restarts=-1, max_task_retries=-1, name=f"{name}-{index}",
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle),
            **hidden,
        ).remote(*args, role.threads)
        for index, bundle in enumerate(bundles)
    ]  # fmt: skip


class WeightTransport(Protocol):
    """How weights reach the rollout workers: what `publish` returns is passed to them as an argument."""

    def publish(self, weights: Weights) -> ray.ObjectRef: ...


class ObjectStore:
    """One object a version; workers of one node share its memory."""

    def publish(self, weights: Weights) -> ray.ObjectRef:
        return ray.put(weights)


class DirectTransport:
    """Ray Direct Transport (NIXL): the buffer stays on the learner's GPU until a worker reads it. Experimental."""

    def publish(self, weights: Weights) -> ray.ObjectRef:
        buffer: Any = torch.as_tensor(weights.buffer).cuda()
        return ray.put(replace(weights, buffer=buffer), _tensor_transport="nixl")


TRANSPORTS: dict[str, type[WeightTransport]] = {"object_store": ObjectStore, "direct": DirectTransport}


@dataclass(frozen=True)
class InFlight:
    """One request on its way."""

    drawn: ray.ObjectRef
    scored: ray.ObjectRef
    rollout: int
    reward: int


class Feed:
    """Keeps `config.queue` batches in flight beyond the one that is learnt from. Lives in one process of the learner."""

    def __init__(self, crew: Crew, config: RLConfig, batch: int, num_classes: int, seed: int, max_replacements: int = 3):
        self.crew, self.config, self.batch_size = crew, config, batch
        self.num_classes, self.seed, self.max_replacements = num_classes, seed, max_replacements
        self.transport = TRANSPORTS[config.transport]()
        self.flights: dict[int, list[InFlight]] = {}
        self.replaced = 0
        self.sync_seconds, self.sync_bytes = 0.0, 0

    def begin(self, step: int, weights: Weights) -> None:
        """Start with batch `step`, drawn with `weights`."""
        self.publish(weights)
        for number in range(step, step + self.config.queue):
            self._submit(number)

    def publish(self, weights: Weights) -> None:
        """New weights, for the batches that are submitted from now on."""
        began = time.perf_counter()
        self.weights = self.transport.publish(weights)
        self.sync_seconds, self.sync_bytes = time.perf_counter() - began, weights.buffer.nbytes

    def batch(self, step: int) -> list[Delivery]:
        """Batch number `step`, in the order of its requests.

        Raises WorkerLostError when a worker does not answer although it was replaced `max_replacements` times.
        """
        self._submit(step + self.config.queue)
        return self._collect(self.flights.pop(step))

    def whole_batch(self, step: int) -> list[Delivery]:
        """Batch number `step` and no other, with the last weights."""
        self._submit(step)
        return self._collect(self.flights.pop(step))

    def _submit(self, step: int) -> None:
        flights = []
        for number, request in enumerate(requests(self.config, self.batch_size, self.num_classes, self.seed, step)):
            rollout, reward = number % len(self.crew.rollouts), number % len(self.crew.rewards)
            drawn = self.crew.rollouts[rollout].generate.remote(self.weights, request)
            flights.append(InFlight(drawn, self.crew.rewards[reward].score.remote(drawn), rollout, reward))
        self.flights[step] = flights

    def _collect(self, flights: list[InFlight]) -> list[Delivery]:
        refs = [flight.scored for flight in flights]
        for _ in range(self.max_replacements + 1):
            _, late = ray.wait(refs, num_returns=len(refs), timeout=self.config.timeout)
            if not late:
                return ray.get(refs)
            culprits = {self._culprit(flight) for flight in flights if flight.scored in late}
            for name, index in culprits:
                # Ray starts it anew and repeats its calls.
                ray.kill((self.crew.rewards if name == "reward" else self.crew.rollouts)[index], no_restart=False)
                self.replaced += 1
        raise WorkerLostError(
            f"no answer within {self.config.timeout} s from {', '.join(f'{n}-{i}' for n, i in sorted(culprits))}, replaced "
            f"{self.max_replacements} times: raise rl.timeout, or look at the worker's log in the Ray dashboard"
        )

    def _culprit(self, flight: InFlight) -> tuple[str, int]:
        """Who has the late request."""
        drawn, _ = ray.wait([flight.drawn], timeout=0, fetch_local=False)
        return ("reward", flight.reward) if drawn else ("rollout", flight.rollout)


def requests(config: RLConfig, batch: int, num_classes: int, seed: int, step: int) -> list[Request]:
    """The requests of batch `step`. Labels come in turn from a permutation of the classes; policy gradients want
    `group` images of each."""
    repeat = config.group if config.estimator == "policy" else 1
    prompts = math.ceil(batch / repeat)
    first, last = step * prompts, (step + 1) * prompts
    rounds = range(first // num_classes, (last - 1) // num_classes + 1)
    classes = np.concatenate([np.random.default_rng((seed, number)).permutation(num_classes) for number in rounds])
    start = first - rounds.start * num_classes
    labels = torch.from_numpy(classes[start : start + prompts].repeat(repeat)[:batch])
    indices = range(step * batch, (step + 1) * batch)
    return [
        Request(seed, tuple(indices[i : i + config.chunk]), labels[i : i + config.chunk])
        for i in range(0, batch, config.chunk)
    ]
