"""Time to hand weights to a worker, pack + put + fetch + copy, against plain copies of the same bytes in the same run."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import ray
import torch
from torch import Tensor

from actors.pool import ObjectStore
from marval_ray import cli
from marval_ray.flat_weights import DTYPES, pack, unpack
from marval_ray.types import Weights

COPIES = 3
"""Into one buffer, into the object store, into the worker's parameters."""


@dataclass(frozen=True)
class Config:
    gigabytes: tuple[float, ...] = (0.4, 1.9)
    dtype: str = "bfloat16"
    tensors: int = 300
    repeats: int = 5
    """Of which the median counts, after one that warms up."""


class Reader:
    """A worker with parameters of its own."""

    def __init__(self, sizes: list[int]):
        self.parameters = parameters(sizes)

    def take(self, weights: Weights) -> int:
        unpack(weights, self.parameters)
        return weights.version


def parameters(sizes: list[int]) -> dict[str, Tensor]:
    """Parameters in the dtype that travels, so that bytes are bytes."""
    return {f"p{index:04d}": torch.ones(size, dtype=torch.bfloat16) for index, size in enumerate(sizes)}


def main(config: Config) -> None:
    for gigabytes in config.gigabytes:
        sizes = [int(gigabytes * 1e9 / 2 / config.tensors)] * config.tensors
        sent, copied = handed_over(sizes, gigabytes, config), one_copy(sum(sizes), config)
        print(
            f"{gigabytes} GB: handed over in {sent:.2f} s; one copy {copied:.2f} s; "
            f"ratio to {COPIES} copies {sent / (COPIES * copied):.2f}"
        )


def handed_over(sizes: list[int], gigabytes: float, config: Config) -> float:
    """Seconds to hand parameters of `sizes` to an actor."""
    own, store = parameters(sizes), ObjectStore()
    with ray.init(object_store_memory=int(3 * gigabytes * 1e9), num_cpus=2, log_to_driver=False):
        reader: Any = ray.remote(Reader).remote(sizes)
        return seconds(
            lambda: ray.get(reader.take.remote(store.publish(pack(own, 1, DTYPES[config.dtype])))), config.repeats
        )


def one_copy(size: int, config: Config) -> float:
    """Seconds to copy `size` numbers."""
    source, target = torch.ones(size, dtype=torch.bfloat16), torch.empty(size, dtype=torch.bfloat16)
    return seconds(lambda: target.copy_(source), config.repeats)


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median of `repeats` runs after a first one."""
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return median(times[1:])


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
