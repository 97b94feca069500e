"""Speed of both learners on the CPU with random weights: FLOPs, seconds and the share of this machine's fp32 matmul peak.

    python bench/updates.py --batch 4

GSIM: whole updates of both networks, with DeepSpeed. Replay: the last loops of a recorded rollout, forward and back, as RL's learner
does them, without its optimiser. FLOPs are what PyTorch counts in one such update, so those that recomputing takes are among them.
Large square matmuls run in between, with the same threads; the best of them is the peak.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from records import PRESETS
from sampling import Speed, matmul_gflops, random_model, seconds_of, speed_table
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from actors.learning.gsim import GSIMLearner, GSIMRun, Matching
from marval_ray import cli
from marval_ray.config import LearnerConfig
from marval_ray.distil.student import Student
from marval_ray.draws import Draws
from marval_ray.families.mar.loop import Randomness, recorded_loops
from marval_ray.files.latent_files import write_latents
from marval_ray.hub.layout import save_model
from marval_ray.presets import PresetName
from marval_ray.reinforce.replay import replay_chain
from marval_ray.types import Prompts

CPU = torch.device("cpu")
Part = Literal["gsim", "replay"]


@dataclass(frozen=True)
class Config:
    preset: PresetName = "mar-b"
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


@contextmanager
def gsim(config: Config) -> Iterator[Callable[[], object]]:
    """Give one update of both networks."""
    c = PRESETS[config.preset].model
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        save_model(folder, "teacher", random_model(c, CPU).state_dict(), c, torch.float32)
        values = np.random.default_rng(0).standard_normal((config.batch, *c.latent_shape))
        write_latents(folder / "latents.parquet", values, 0 * values, np.arange(config.batch) % c.num_classes)
        matching = Matching(PRESETS[config.preset].gsim, folder / "teacher.safetensors", folder / "latents.parquet")
        learner = GSIMLearner(GSIMRun(c, matching, LearnerConfig(batch=config.batch)), CPU)
        yield lambda: learner.step(0)


@contextmanager
def replay(config: Config) -> Iterator[Callable[[], object]]:
    """Give forward and backward pass of the last loops."""
    c = PRESETS[config.preset].model
    student = Student(random_model(c, CPU)).requires_grad_()
    random = Randomness.of(Draws(0, tuple(range(config.batch))), c.num_tokens, c.token_channels, 0)
    labels = Prompts.classes_in_turn(c.num_classes, config.batch).labels
    assert labels is not None  # these have classes
    loops = list(recorded_loops(random.initial, labels, random, config.loops))[-config.last :]

    def action() -> None:
        tokens, _ = replay_chain(student, random.initial, loops)
        tokens.square().mean().backward()
        student.zero_grad()

    yield action


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
    made, speeds = {"gsim": gsim, "replay": replay}, []
    for part in config.parts:
        with made[part](config) as action:
            speeds.append(measure(part, action, config.repeats))
    print(f"{config.preset}, batch {config.batch}, the last {config.last} of {config.loops} loops, {torch.get_num_threads()} threads\n")
    print(speed_table(speeds))
    dist.destroy_process_group()


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
