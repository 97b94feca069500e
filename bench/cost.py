"""Time and cost of both stages of MARVAL on many GPUs, by a model: counted FLOPs, assumed speeds.

    python bench/cost.py
    python bench/cost.py --gpu.tflops 989 --gpu.price 3

Nothing here was run on a GPU. docs/scaling.md says what is assumed, and what the model leaves out.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from sampling import loop_flops
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPVisionConfig, CLIPVisionModel

from marval_ray import cli
from marval_ray.families.mar.autoencoder import KL16
from marval_ray.families.mar.config import ModelConfig
from marval_ray.families.mar.loop import Loop, plan_loops
from marval_ray.families.mar.model import MAR
from marval_ray.presets import PRESETS

IMAGES = 1_281_167
"""Of ImageNet's training set."""
GSIM_EPOCHS, RL_EPOCHS = 30, 5
"""MARVAL, supplement, Tables 1 and 2."""
MASKED = 0.84
"""Mean share of masked tokens in training: N(1, 0.25^2) within 0.7 .. 1."""
BACKWARD = 2
"""Cost of a backward pass in forward passes."""
PIXELS = 224
CLIP_H = CLIPVisionConfig(
    hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=16, image_size=PIXELS, patch_size=14
)  # fmt: skip
LOOPS = 64
"""N_AR of the rollouts."""
LATENCY = {"mar-b": 0.61 / LOOPS, "mar-l": 0.97 / LOOPS, "mar-h": 1.67 / LOOPS}
"""Seconds of one AR loop of one image on an A100: MARVAL's seconds per image. No batch is faster."""


@dataclass(frozen=True)
class GPU:
    """The defaults are an A100's."""

    tflops: float = 312.0
    """Peak, bf16."""
    training: float = 0.35
    """Share of the peak that training gets."""
    sampling: float = 0.25
    """Share of the peak that large batches of sampling get."""
    network: float = 20.0
    """GB/s between GPUs of different nodes, each."""
    price: float = 2.0
    """Dollars an hour."""


@dataclass(frozen=True)
class Config:
    gpu: GPU = field(default_factory=GPU)
    gpus: tuple[int, ...] = (8, 64, 256)
    batch: int = 64
    """Images an update and GPU in GSIM."""
    chunk: int = 16
    """Images a request to a rollout worker."""
    last: int = 64
    """K: loops that the learner replays."""


@dataclass(frozen=True)
class Work:
    """TFLOP of one image."""

    gsim: float
    rollout: float
    reward: float
    replay: float


def counted(action: Callable[[], object]) -> float:
    """TFLOP of matrix products and convolutions, on tensors without storage."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        action()
    return counter.get_total_flops() / 1e12


def work_of(c: ModelConfig, last: int) -> Work:
    with torch.device("meta"):
        decoder, clip = KL16.build(), CLIPVisionModel(CLIP_H)
        latent, picture = torch.empty(1, *c.latent_shape), torch.empty(1, 3, PIXELS, PIXELS)
    reward = counted(lambda: decoder.decode(latent)) + counted(lambda: clip(picture))
    loops = [loop_flops(c, loop, False, 1) / 1e12 for loop in plan_loops(torch.randperm(c.num_tokens)[None], LOOPS)]
    replay = (2 + BACKWARD) * sum(loops[-last:])  # it computes activations twice
    return Work(gsim_tflop(c), sum(loops), (1 + BACKWARD) * reward, replay)


def gsim_tflop(c: ModelConfig) -> float:
    """One update of the auxiliary network and one of the student, which share the student's forward pass."""
    masked = round(MASKED * c.num_tokens)
    context = Loop(mask(c.num_tokens - masked), mask(masked), masked)

    def forward(heads: int) -> float:
        return loop_flops(c, context, False, heads) / 1e12

    head = forward(2) - forward(1)
    student = (1 + BACKWARD) * forward(1)
    auxiliary = (1 + BACKWARD) * forward(PRESETS["mar-b"].gsim.repeats)
    scores = 3 * forward(1) + (1 + BACKWARD) * 3 * head  # teacher with and without label, auxiliary network; gradient of the heads
    return student + auxiliary + scores


def mask(tokens: int) -> Tensor:
    return torch.zeros(1, tokens, dtype=torch.long)


def gsim_hours(config: Config, work: Work, parameters: float, gpus: int) -> float:
    """Compute, then the gradients of both networks around the ring, not hidden behind it."""
    gpu = config.gpu
    compute = config.batch * work.gsim / (gpu.tflops * gpu.training)
    exchange = 2 * 2 * 4 * parameters / (gpu.network * 1e9) * (gpus > 8)
    return IMAGES * GSIM_EPOCHS / (config.batch * gpus) * (compute + exchange) / 3600


def rl_split(config: Config, preset: str, work: Work, gpus: int) -> tuple[dict[str, int], float]:
    """(GPUs of each role, hours): as many of each as keep the slowest fastest. At staleness 1 the roles work at the same time."""
    gpu = config.gpu
    training = gpu.tflops * gpu.training
    rollout = max(work.rollout * config.chunk / (gpu.tflops * gpu.sampling), LOOPS * LATENCY[preset]) / config.chunk
    seconds = {"rollout": rollout, "reward": work.reward / training, "learner": work.replay / training}
    total = sum(seconds.values())
    counts = {role: max(1, math.floor(gpus * need / total)) for role, need in seconds.items()}
    while sum(counts.values()) < gpus:
        counts[max(counts, key=lambda role: seconds[role] / counts[role])] += 1
    return counts, IMAGES * RL_EPOCHS * max(seconds[role] / counts[role] for role in counts) / 3600


def main(config: Config) -> None:
    notes = []
    print("| model | GPUs | GSIM, hours | $ | RL: learner + rollout + reward GPUs | hours | $ |\n|--|--|--|--|--|--|--|")
    for preset in LATENCY:
        model = PRESETS[preset].model
        work = work_of(model, config.last)
        for gpus in config.gpus:
            hours = gsim_hours(config, work, parameters_of(model), gpus)
            counts, more = rl_split(config, preset, work, gpus)
            split = f"{counts['learner']} + {counts['rollout']} + {counts['reward']}"
            cost = [f"{gpus * h * config.gpu.price:,.0f}" for h in (hours, more)]
            print(f"| {preset} | {gpus} | {hours:.1f} | {cost[0]} | {split} | {more:.1f} | {cost[1]} |")
        notes.append(f"| {preset} | {work.gsim:.2f} | {work.rollout:.2f} | {work.reward:.2f} | {work.replay:.2f} |")
    print("\n| TFLOP an image | GSIM | rollout | decoder and reward | replay |\n|--|--|--|--|--|", *notes, sep="\n")


def parameters_of(c: ModelConfig) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in MAR(c).parameters())


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
