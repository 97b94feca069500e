"""What rank 0 does for all ranks: every rank gets what it got, and raises what it met."""

from collections.abc import Callable, Sequence
from typing import Any

import torch.distributed as dist

from actors.errors import WorkerError
from actors.patience import CalledOff


def from_chief(work: Callable[[], Any]) -> Any:
    """Run `work` on rank 0, and return what it gives on every rank. Raises WorkerError and CalledOff on all of them."""
    told: list[Any] = [None]
    if dist.get_rank() == 0:
        try:
            told = [work()]
        except (WorkerError, CalledOff) as error:
            told = [error]
    if dist.get_world_size() > 1:
        dist.broadcast_object_list(told, src=0)
    return raised(told[0])


def dealt(work: Callable[[], Sequence[Any]]) -> Any:
    """Run `work` on rank 0, and return to each rank its part. Raises WorkerError and CalledOff on all of them."""
    world = dist.get_world_size()
    parts: list[Any] = [None] * world
    if dist.get_rank() == 0:
        try:
            parts = list(work())
        except (WorkerError, CalledOff) as error:
            parts = [error] * world
    mine = parts[:1]
    if world > 1:
        mine = [None]
        dist.scatter_object_list(mine, parts, src=0)
    return raised(mine[0])


def raised(told: Any) -> Any:
    """Return `told`, or raise it if it is an error that rank 0 met."""
    if isinstance(told, (WorkerError, CalledOff)):
        raise told
    return told
