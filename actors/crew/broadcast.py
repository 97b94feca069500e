"""The broadcast of weights from the learner to the rollout workers, one version at a time."""

from dataclasses import replace
from typing import Any, Protocol

import ray
import torch

from marval_ray.types import Weights


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
