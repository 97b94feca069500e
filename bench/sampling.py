"""Speed of sampling with random weights: FLOPs, seconds and the share of this machine's fp32 matmul peak.

A few of the AR loops are timed, evenly spread, each after its own earlier loops would have revealed their tokens.
Large square matmuls run in between, with the same threads; the best of them is the peak. Each loop counts with the
best of `repeats`, so that other load on the machine hits both sides alike.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from marval_ray import cli
from marval_ray.diffusion.samplers import Ancestral, TokenSampler
from marval_ray.draws import Draws
from marval_ray.evaluation.metrics import markdown_table
from marval_ray.families.mar.config import ModelConfig
from marval_ray.families.mar.loop import Loop, Randomness, plan_loops, run_loop
from marval_ray.families.mar.model import MAR
from marval_ray.plan.mar import loop_flops
from marval_ray.presets import MAR_MODELS

PEAK_SIZES = (2048, 3072, 4096)
TOLERANCE = 1e-3
"""Largest relative gap between counted FLOPs and the formula."""


@dataclass(frozen=True)
class Config:
    preset: str = "mar-b"
    batch: int = 8
    loops: int = 64
    """AR loops of a whole image."""
    measured: int = 2
    """How many of them are timed."""
    repeats: int = 2
    steps: int = 100
    """The teacher's diffusion steps; all of them are run."""
    cfg: float = 3.0
    """The teacher's guidance scale; 1 turns guidance off."""
    json: Path | None = None
    """Also write the figures to this file."""

    def __post_init__(self) -> None:
        if self.preset not in MAR_MODELS:
            raise ValueError(f"unknown preset {self.preset!r}; choose one of {', '.join(MAR_MODELS)}")
        if not 1 <= self.measured <= self.loops:
            raise ValueError(f"measured must be in 1..loops ({self.loops}), got {self.measured}")


@dataclass(frozen=True)
class Speed:
    """Sums over the measured loops; `peak_gflops` is the best matmul that ran between them."""

    name: str
    flops: int
    seconds: float
    peak_gflops: float

    @property
    def gflops(self) -> float:
        return self.flops / self.seconds / 1e9

    @property
    def share(self) -> float:
        return self.gflops / self.peak_gflops


def counted_flops(config: ModelConfig, sampler: TokenSampler, loop: Loop) -> int:
    """FLOPs of the same loop as PyTorch's counter sees them, on tensors without storage."""
    with torch.device("meta"):
        model = MAR(config)
    shape = (len(loop.known), config.num_tokens, config.token_channels)
    tokens = torch.empty(shape, device="meta")
    random = Randomness(tokens[..., 0].long(), tokens, torch.empty(sampler.noise_steps, *shape, device="meta"))
    meta_loop = Loop(loop.known.to("meta"), loop.predicted.to("meta"), loop.revealed)
    # The fused attention kernel of CPUs is unknown to the counter; plain matrix products are known.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        run_loop(model, sampler, tokens, tokens[:, 0, 0].long(), meta_loop, random)
    return counter.get_total_flops()


def checked_flops(config: ModelConfig, sampler: TokenSampler, loop: Loop) -> int:
    """Counted FLOPs; RuntimeError when the formula disagrees."""
    counted = counted_flops(config, sampler, loop)
    formula = loop_flops(config, loop, sampler.guided, max(1, sampler.noise_steps))
    if abs(formula / counted - 1) > TOLERANCE:
        raise RuntimeError(f"the counter sees {counted:,} FLOPs, the formula gives {formula:,}: correct loop_flops")
    return counted


def seconds_of(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def matmul_gflops() -> float:
    """The best of one product of each size."""
    squares = [torch.rand(n, n) for n in PEAK_SIZES]
    return max(2 * len(a) ** 3 / seconds_of(partial(torch.mm, a, a)) / 1e9 for a in squares)


def random_model(config: ModelConfig, device: torch.device) -> MAR:
    """A model with normal weights; much cheaper than its true initialisation, and speed does not see the values."""
    with torch.device("meta"):
        model = MAR(config)
    model = model.to_empty(device=device).requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_(std=0.02)
    return model


def measure(name: str, model: MAR, sampler: TokenSampler, loops: list[Loop], repeats: int) -> Speed:
    """Time `loops`, with matmuls before each of them and at the end."""
    c, batch = model.config, len(loops[0].known)
    random = Randomness.of(Draws(0, tuple(range(batch))), c.num_tokens, c.token_channels, sampler.noise_steps)
    labels: Tensor = torch.arange(batch) % c.num_classes
    peaks, seconds = [], 0.0
    for loop in loops:
        times = []
        for _ in range(repeats):
            peaks.append(matmul_gflops())
            times.append(seconds_of(partial(run_loop, model, sampler, random.initial, labels, loop, random)))
        seconds += min(times)
    peaks.append(matmul_gflops())
    return Speed(name, sum(checked_flops(c, sampler, loop) for loop in loops), seconds, max(peaks))


def speed_table(speeds: list[Speed]) -> str:
    rows = [
        [s.name, f"{s.flops / 1e9:.0f}", f"{s.seconds:.2f}", f"{s.gflops:.0f}", f"{s.peak_gflops:.0f}", f"{s.share:.2f}"]
        for s in speeds
    ]  # fmt: skip
    return markdown_table(["", "GFLOP", "seconds", "GFLOP/s", "peak", "share"], rows)


def spread(items: list[Loop], count: int) -> list[Loop]:
    """`count` of `items` from the middles of equal parts."""
    return [items[int((i + 0.5) * len(items) / count)] for i in range(count)]


@torch.no_grad()
def main(config: Config) -> None:
    model_config = MAR_MODELS[config.preset]
    orders = torch.stack([torch.randperm(model_config.num_tokens) for _ in range(config.batch)])
    loops = spread(list(plan_loops(orders, config.loops)), config.measured)
    model = random_model(model_config, torch.device("cpu"))
    samplers: dict[str, TokenSampler] = {
        "student": model_config.one_step,
        "teacher": Ancestral(steps=config.steps, cfg=config.cfg),
    }
    speeds = [measure(name, model, sampler, loops, config.repeats) for name, sampler in samplers.items()]
    print(f"{config.preset}, batch {config.batch}, {len(loops)} of {config.loops} loops, {torch.get_num_threads()} threads\n")
    print(speed_table(speeds))
    if config.json:
        results = {speed.name: asdict(speed) | {"gflops": speed.gflops, "share": speed.share} for speed in speeds}
        config.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
