"""Time to hand weights to a worker, pack + put + fetch + copy, against plain copies of the same bytes in the same run."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import ray
import torch
from torch import Tensor

from actors.crew.broadcast import ObjectStore
from marval_ray import cli
from marval_ray.evaluation.metrics import markdown_table
from marval_ray.files.flat import DTYPES, Packer, unpack
from marval_ray.types import Weights

COPIES = 3
"""Into one buffer, into the object store, into the worker's parameters."""


@dataclass(frozen=True)
class Config:
    gigabytes: tuple[float, ...] = (0.4, 1.9)
    dtype: str = "bfloat16"
    tensors: int = 300
    repeats: int = 9
    """Of which the median counts, after `warm_up` more: the first versions of a run touch fresh pages of the object store."""
    warm_up: int = 4


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
    rows = []
    for gigabytes in config.gigabytes:
        sizes = [int(gigabytes * 1e9 / 2 / config.tensors)] * config.tensors
        sent, copied = measured(sizes, gigabytes, config)
        rows.append([f"{gigabytes:g}", f"{sent:.3f}", f"{copied:.3f}", f"{sent / (COPIES * copied):.2f}"])
    print(markdown_table(["GB", "handed over, s", "one copy, s", f"over {COPIES} copies"], rows))


def measured(sizes: list[int], gigabytes: float, config: Config) -> tuple[float, float]:
    """Median seconds to hand parameters of `sizes` to an actor, and to copy as many numbers, in turn."""
    own, store, pack = parameters(sizes), ObjectStore(), Packer(DTYPES[config.dtype])
    source, target = torch.ones(sum(sizes), dtype=torch.bfloat16), torch.empty(sum(sizes), dtype=torch.bfloat16)
    with ray.init(object_store_memory=int(3 * gigabytes * 1e9), num_cpus=2, log_to_driver=False):
        reader: Any = ray.remote(Reader).remote(sizes)
        times = [
            (seconds(lambda: ray.get(reader.take.remote(store.publish(pack(own, 1))))), seconds(lambda: target.copy_(source)))
            for _ in range(config.warm_up + config.repeats)
        ]
    sent, copied = zip(*times[config.warm_up :])
    return median(sent), median(copied)


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
