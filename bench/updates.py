"""Speed of both learners on the CPU with random weights: FLOPs, seconds and the share of this machine's fp32 matmul peak.

    python bench/updates.py --batch 4

GSIM: whole updates of both networks, with DeepSpeed. Replay: the last loops of a recorded rollout, forward and back, as RL's learner
does them, without its optimiser. FLOPs are what PyTorch counts in one such update, so those that recomputing takes are among them.
Large square matmuls run in between, with the same threads; the best of them is the peak.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from learners import gsim_update, replay_update
from sampling import Speed, matmul_gflops, seconds_of, speed_table
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from marval_ray import cli
from marval_ray.presets import MAR_MODELS, ClassPresetName

CPU = torch.device("cpu")
Part = Literal["gsim", "replay"]


@dataclass(frozen=True)
class Config:
    preset: ClassPresetName = "mar-b"
    parts: tuple[Part, ...] = ("gsim", "replay")
    batch: int = 4
    loops: int = 64
    """AR loops of a whole image."""
    last: int = 8
    """K: how many of them are replayed."""
    repeats: int = 2
    """The best of so many counts."""


class Flops(TorchDispatchMode):
    """Adds up what PyTorch's formulas say of each operation. FlopCounterMode also follows modules, and fails inside autograd.grad."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Sequence[type], args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.total += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=result)
        return result


def measure(name: str, action: Callable[[], object], repeats: int) -> Speed:
    """Count an update's FLOPs, then time others, with matmuls around each."""
    # The fused attention kernel of CPUs is unknown to the counter; plain matrix products are known.
    with Flops() as counter, sdpa_kernel(SDPBackend.MATH):
        action()
    peaks, times = [matmul_gflops()], []
    for _ in range(repeats):
        times.append(seconds_of(action))
        peaks.append(matmul_gflops())
    return Speed(name, counter.total, min(times), max(peaks))


def main(config: Config) -> None:
    os.environ["LOCAL_RANK"] = "0"  # DeepSpeed asks for it
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    c = MAR_MODELS[config.preset]
    updates = {
        "gsim": lambda: gsim_update(config.preset, config.batch, CPU),
        "replay": lambda: nullcontext(replay_update(c, config.batch, config.loops, config.last, CPU)),
    }
    speeds = []
    for part in config.parts:
        with updates[part]() as update:
            speeds.append(measure(part, update, config.repeats))
    print(f"{config.preset}, batch {config.batch}, the last {config.last} of {config.loops} loops, {torch.get_num_threads()} threads\n")
    print(speed_table(speeds))
    dist.destroy_process_group()


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
