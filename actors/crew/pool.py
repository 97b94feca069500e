"""Rollout, reward and judge actors, and the flow of batches through them.

Batch t is drawn with weights whose version depends on t alone, its requests go to workers by their number, and its
parts come back in the order of the requests: results do not depend on timing. Calls are stateless, so Ray's own
restarts and retries recover a lost worker; `Patience` makes a lost one of any that does not answer in time.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.crew.broadcast import TRANSPORTS
from actors.errors import WorkerError
from actors.patience import Patience
from actors.resources import visible
from marval_ray.config import RLConfig, RoleConfig
from marval_ray.reinforce.requests import requests
from marval_ray.types import Delivery, Prompts, Weights


@dataclass(frozen=True)
class Crew:
    """Handles of the actors. answer_seconds: how long one of them may take for an answer, and to be there again before it."""

    rollouts: list[Any]
    rewards: list[Any]
    judge: Any | None
    answer_seconds: float = 600.0

    def by_name(self) -> dict[str, Any]:
        """Return all actors, by the name that the dashboard shows."""
        roles = {"rollout": self.rollouts, "reward": self.rewards}
        judge = {"judge-0": self.judge} if self.judge is not None else {}
        return {f"{role}-{index}": actor for role, actors in roles.items() for index, actor in enumerate(actors)} | judge


def hire(cls: type, role: RoleConfig, name: str, group: PlacementGroup, bundles: Sequence[int], *args: Any) -> list[Any]:
    """Start `role.count` named actors of the plain class `cls`, one in each bundle of `group`; Ray restarts them for ever."""
    remote: Any = ray.remote(cls)
    return [
        remote.options(
            num_cpus=role.cpus, num_gpus=role.gpus, max_restarts=-1, max_task_retries=-1, name=f"{name}-{index}",
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle),
            **visible(role.gpus),
        ).remote(*args, role.threads)
        for index, bundle in enumerate(bundles)
    ]  # fmt: skip


@dataclass(frozen=True)
class InFlight:
    """One request on its way."""

    drawn: ray.ObjectRef
    scored: ray.ObjectRef
    rollout: int
    reward: int


class Feed:
    """Keeps `config.queue` batches in flight beyond the one that is learnt from. Lives in one process of the learner."""

    def __init__(
        self, crew: Crew, config: RLConfig, batch: int, prompts: Prompts, seed: int, stopping: Callable[[], bool] = lambda: False
    ):
        """Ask `stopping` whether to give up waiting for a batch."""
        self.crew, self.config, self.batch_size = crew, config, batch
        self.weights: ray.ObjectRef | None = None
        self.prompts, self.seed = prompts, seed
        self.transport = TRANSPORTS[config.transport]()
        self.patience = Patience(crew.answer_seconds, stopping)
        self.flights: dict[int, list[InFlight]] = {}
        self.sync_seconds, self.sync_bytes = 0.0, 0

    @property
    def replaced(self) -> int:
        """How many workers were replaced because they did not answer."""
        return self.patience.replaced

    def begin(self, step: int, weights: Weights) -> None:
        """Start with batch `step`, drawn with `weights`."""
        self.publish(weights)
        for number in range(step, step + self.config.queue):
            self._submit(number)

    def publish(self, weights: Weights) -> None:
        """Publish new weights, for the batches that are submitted from now on."""
        began = time.perf_counter()
        self.weights = self.transport.publish(weights)
        self.sync_seconds, self.sync_bytes = time.perf_counter() - began, weights.buffer.nbytes

    def batch(self, step: int) -> list[Delivery]:
        """Return batch number `step`, in the order of its requests.

        Raises WorkerError when a worker fails, or does not answer although it was replaced, and CalledOff.
        """
        self._submit(step + self.config.queue)
        return self._collect(self.flights.pop(step))

    def whole_batch(self, step: int) -> list[Delivery]:
        """Return batch number `step` and no other, with the last weights."""
        self._submit(step)
        return self._collect(self.flights.pop(step))

    def _submit(self, step: int) -> None:
        flights = []
        for number, request in enumerate(requests(self.config, self.batch_size, self.prompts, self.seed, step)):
            rollout, reward = number % len(self.crew.rollouts), number % len(self.crew.rewards)
            drawn = self.crew.rollouts[rollout].generate.remote(self.weights, request)
            flights.append(InFlight(drawn, self.crew.rewards[reward].score.remote(drawn), rollout, reward))
        self.flights[step] = flights

    def _collect(self, flights: list[InFlight]) -> list[Delivery]:
        def sick(late: list[ray.ObjectRef]) -> dict[str, Any]:
            return dict(self._culprit(flight) for flight in flights if flight.scored in late)

        with about(self.config.rewards):
            return self.patience.results([flight.scored for flight in flights], sick)

    def _culprit(self, flight: InFlight) -> tuple[str, Any]:
        """Tell who has the late request: name and handle."""
        drawn, _ = ray.wait([flight.drawn], timeout=0, fetch_local=False)
        if drawn:
            return f"reward-{flight.reward}", self.crew.rewards[flight.reward]
        return f"rollout-{flight.rollout}", self.crew.rollouts[flight.rollout]


@contextmanager
def about(rewards: Sequence[str]) -> Iterator[None]:
    """Name the rewards in a WorkerError: it is they that come from users."""
    try:
        yield
    except WorkerError as error:
        raise WorkerError(f"{error} (rewards: {', '.join(rewards)})") from error
