"""Time of both stages on GPUs, by a model: counted FLOPs, assumed speeds. docs/scaling.md says what is assumed, and what is left out."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop, sdpa_flop
from torch.utils.module_tracker import ModuleTracker

from marval_ray.config import RLConfig
from marval_ray.reinforce.scoring import Scorer
from marval_ray.types import Tokens

aten = torch.ops.aten
BACKWARD = 2
"""Cost of a backward pass in forward passes."""
BLOCK_SECONDS = {24: 0.61 / 64 / 24, 32: 0.97 / 64 / 32, 40: 1.67 / 64 / 40}
"""Of one AR loop of one image on an A100, a block, by the number of blocks: MARVAL's seconds per image. No batch is faster."""

ATTENTION = {
    aten._scaled_dot_product_flash_attention_for_cpu: sdpa_flop,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: sdpa_backward_flop,
}
"""What the counter does not know of `AsOnGPU`, by its formulas of the same on a GPU."""


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
class Work:
    """TFLOP of one image."""

    gsim: float
    rollout: float
    reward: float
    replay: float


class Untracked(ModuleTracker):
    """Knows no modules: torch's own puts hooks on them that raise where a gradient is asked for by `torch.autograd.grad`."""

    def __enter__(self) -> "Untracked":
        return self

    def __exit__(self, *exception: object) -> None:
        pass


def counted(action: Callable[[], object]) -> float:
    """Return the TFLOP of matrix products and convolutions, on tensors without storage."""
    counter = FlopCounterMode(display=False)
    counter.flop_registry |= ATTENTION
    counter.mod_tracker = Untracked()
    with counter, sdpa_kernel(SDPBackend.MATH):
        action()
    return counter.get_total_flops() / 1e12


def reward_tflop(scorer: Scorer, image: Tokens) -> float:
    """Return what decoding and scoring of an image take, with gradient. scorer: without storage."""
    with torch.no_grad():
        return (1 + BACKWARD) * counted(lambda: scorer.reward(scorer.codec.decode(image), ("",)))


def loop_seconds(blocks: int) -> float:
    """Return the least time of one AR loop; of sizes that the paper does not time, a block takes as long as one of MAR-B."""
    return blocks * BLOCK_SECONDS.get(blocks, BLOCK_SECONDS[24])


def gsim_seconds(gpu: GPU, work: Work, parameters: int, batch: int, gpus: int) -> float:
    """Return the seconds of an update: compute, then the gradients of both networks around the ring, not hidden behind it.

    parameters: those of a network that are trained.
    """
    compute = batch * work.gsim / (gpu.tflops * gpu.training)
    return compute + 2 * 2 * 4 * parameters / (gpu.network * 1e9) * (gpus > 8)


def rl_seconds(gpu: GPU, work: Work, blocks: int, rl: RLConfig) -> dict[str, float]:
    """Return the seconds of an image in each role. blocks: of the model, one after the other."""
    training = gpu.tflops * gpu.training
    rollout = max(work.rollout * rl.chunk / (gpu.tflops * gpu.sampling), rl.loops[0] * loop_seconds(blocks)) / rl.chunk
    return {"rollout": rollout, "reward": work.reward / training, "learner": work.replay / training}
