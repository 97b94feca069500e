"""Time of both stages on GPUs, by a model: counted FLOPs, assumed speeds. docs/scaling.md says what is assumed, and what is left out."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from marval_ray.config import GSIMConfig, RLConfig
from marval_ray.diffusion.head import TIME_FEATURES
from marval_ray.families.mar.config import ModelConfig
from marval_ray.families.mar.loop import Loop, plan_loops
from marval_ray.plan.counting import tokens_of
from marval_ray.reinforce.scoring import Scorer
from marval_ray.types import Prompts, Tokens

MASKED = 0.84
"""Mean share of masked tokens in training: N(1, 0.25^2) within 0.7 .. 1."""
BACKWARD = 2
"""Cost of a backward pass in forward passes."""
BLOCK_SECONDS = {24: 0.61 / 64 / 24, 32: 0.97 / 64 / 32, 40: 1.67 / 64 / 40}
"""Of one AR loop of one image on an A100, a block, by the number of blocks: MARVAL's seconds per image. No batch is faster."""


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

    @classmethod
    def of(cls, c: ModelConfig, gsim: GSIMConfig, rl: RLConfig, scorer: Scorer) -> "Work":
        """Count it. scorer: without storage."""
        tokens, prompts = Tokens(tokens_of(c, 1)), Prompts.classes_in_turn(c.num_classes, 1)
        reward = counted(lambda: scorer.reward(scorer.codec.decode(tokens), prompts.texts))
        plan = plan_loops(torch.arange(c.num_tokens)[None], rl.loops[0], c.student_reveal)
        loops = [loop_flops(c, loop, False, 1) / 1e12 for loop in plan]
        passes = 1 + BACKWARD + rl.recompute  # it may compute activations twice
        return cls(gsim_tflop(c, gsim), sum(loops), (1 + BACKWARD) * reward, passes * sum(loops[-rl.last :]))


def counted(action: Callable[[], object]) -> float:
    """Return the TFLOP of matrix products and convolutions, on tensors without storage."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        action()
    return counter.get_total_flops() / 1e12


def gsim_tflop(c: ModelConfig, gsim: GSIMConfig) -> float:
    """Return what one update of the auxiliary network and one of the student take, which share the student's forward pass."""
    masked = round(MASKED * c.num_tokens)
    context = Loop(places(c.num_tokens - masked), places(masked), revealed=1.0)

    def forward(heads: int) -> float:
        return loop_flops(c, context, False, heads) / 1e12

    head = forward(2) - forward(1)
    student = (1 + BACKWARD) * forward(1)
    auxiliary = (1 + BACKWARD) * forward(gsim.repeats)
    scores = 3 * forward(1) + (1 + BACKWARD) * 3 * head  # teacher with and without label, auxiliary network; gradient of the heads
    return student + auxiliary + scores


def places(tokens: int) -> Tensor:
    return torch.zeros(1, tokens, dtype=torch.long)


def loop_flops(c: ModelConfig, loop: Loop, guided: bool, head_calls: int) -> int:
    """Return the FLOPs of the matrix products of one AR loop by formula; 2 for each multiply-add. `bench/sampling.py` checks it."""
    images, known = loop.known.shape
    predicted, rows = loop.predicted.shape[1], images * (2 if guided else 1)
    length = c.buffer_size + c.num_tokens

    def block(width: int, tokens: int, queries: int) -> int:
        per_query = width * width * (1 + 2 * int(width * c.mlp_ratio) / width)
        return int(3 * tokens * width * width + queries * per_query + 2 * queries * tokens * width)

    encoder = c.encoder_depth * block(c.encoder_width, c.buffer_size + known, c.buffer_size + known)
    encoder += known * c.token_channels * c.encoder_width
    decoder = (c.buffer_size + known) * c.encoder_width * c.decoder_width
    decoder += (c.decoder_depth - 1) * block(c.decoder_width, length, length)
    decoder += block(c.decoder_width, length, predicted)  # the last one
    w = c.head_width
    token = c.head_depth * 5 * w * w + 2 * w * w + 3 * c.token_channels * w
    head = rows * predicted * (head_calls * token + c.decoder_width * w) + head_calls * (TIME_FEATURES * w + w * w)
    return 2 * (rows * (encoder + decoder) + head)


def loop_seconds(c: ModelConfig) -> float:
    """Return the least time of one AR loop; of sizes that the paper does not time, a block takes as long as one of MAR-B."""
    blocks = c.encoder_depth + c.decoder_depth
    return blocks * BLOCK_SECONDS.get(blocks, BLOCK_SECONDS[24])


def gsim_seconds(gpu: GPU, work: Work, parameters: int, batch: int, gpus: int) -> float:
    """Return the seconds of an update: compute, then the gradients of both networks around the ring, not hidden behind it."""
    compute = batch * work.gsim / (gpu.tflops * gpu.training)
    return compute + 2 * 2 * 4 * parameters / (gpu.network * 1e9) * (gpus > 8)


def rl_seconds(gpu: GPU, work: Work, c: ModelConfig, rl: RLConfig) -> dict[str, float]:
    """Return the seconds of an image in each role."""
    training = gpu.tflops * gpu.training
    rollout = max(work.rollout * rl.chunk / (gpu.tflops * gpu.sampling), rl.loops[0] * loop_seconds(c)) / rl.chunk
    return {"rollout": rollout, "reward": work.reward / training, "learner": work.replay / training}
