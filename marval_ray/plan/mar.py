"""MAR's part of a plan: what its loops hold and take depends on how many tokens are known."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from marval_ray.config import GSIMConfig, RLConfig
from marval_ray.diffusion.head import TIME_FEATURES
from marval_ray.families.base import Codec, RecordedLoop
from marval_ray.families.mar.autoencoder import KL16, KLVAE
from marval_ray.families.mar.codec import KLCodec
from marval_ray.families.mar.config import ModelConfig
from marval_ray.families.mar.context import MARContext
from marval_ray.families.mar.loop import Loop, plan_loops
from marval_ray.families.mar.masking import RATIO_MIN
from marval_ray.plan.cost import BACKWARD, Work, reward_tflop
from marval_ray.plan.counting import META, LiveBytes, values_of
from marval_ray.plan.kinds import Kind
from marval_ray.plan.zero import Engine
from marval_ray.reinforce.replay import replay_chain
from marval_ray.reinforce.scoring import Scorer
from marval_ray.types import Tokens

MASKED = 0.84
"""Mean share of masked tokens in training: N(1, 0.25^2) within 0.7 .. 1."""


@dataclass(frozen=True)
class Hidden:
    """Contexts of stage 1 that hide so many tokens of each image."""

    model: ModelConfig
    count: int

    def batch(self, seed: int, step: int, size: int, generator: torch.Generator, drop: float = 0.0) -> MARContext:
        return context_of(self.model, size, self.model.num_tokens - self.count, self.count)


def context_of(c: ModelConfig, batch: int, known: int, hidden: int) -> MARContext:
    """Return a context with so many known and hidden tokens an image."""
    places = torch.empty(batch, known + hidden, dtype=torch.long, device=META)
    return MARContext(values_of(c, batch), places[:, 0], *(part.clone() for part in places.split([known, hidden], dim=1)))


class MARKind(Kind):
    def tokens(self, c: ModelConfig, batch: int) -> Tokens:
        return Tokens(values_of(c, batch))

    def contexts(self, c: ModelConfig) -> Sequence[Hidden]:
        fewest = math.ceil(RATIO_MIN * c.num_tokens) if c.masking == "mar" else 1
        return [Hidden(c, fewest), Hidden(c, c.num_tokens)]

    def codec(self, c: ModelConfig) -> Codec:
        return KLCodec(KLVAE(KL16.build()), c)

    def replays(self, rl: RLConfig) -> list[int]:
        return [last for last in (2, 8, 16, 32, 64) if last <= rl.loops[0]]

    def held_by_loops(self, student: Engine, live: LiveBytes, batch: int, rl: RLConfig) -> list[int]:
        """Return constant + a x known + b x hidden tokens: attention that never holds its weights has no term beyond that."""
        c, recompute = student.module.backbone.config, rl.recompute and rl.estimator == "pathwise"

        def held(known: int, hidden: int) -> int:
            context = context_of(c, batch, known, hidden)
            noise = torch.empty(batch * hidden, c.token_channels, device=META)
            before = live.live
            graph = replay_chain(student, context.tokens, [RecordedLoop(context, noise, noise)], recompute)
            after = live.live
            del graph
            return after - before

        last = c.num_tokens - 1
        constant = held(0, 1)
        by_known, by_hidden = (held(last, 1) - constant) / last, (held(0, last + 1) - constant) / last
        loops = plan_loops(torch.arange(c.num_tokens)[None], rl.loops[0], c.student_reveal)
        return [round(constant + by_known * loop.known.shape[1] + by_hidden * (loop.predicted.shape[1] - 1)) for loop in loops]

    def work(self, c: ModelConfig, gsim: GSIMConfig, rl: RLConfig, scorer: Scorer) -> Work:
        plan = plan_loops(torch.arange(c.num_tokens)[None], rl.loops[0], c.student_reveal)
        loops = [loop_flops(c, loop, False, 1) / 1e12 for loop in plan]
        passes = 1 + BACKWARD + rl.recompute  # it may compute activations twice
        return Work(gsim_tflop(c, gsim), sum(loops), reward_tflop(scorer, self.tokens(c, 1)), passes * sum(loops[-rl.last :]))

    def blocks(self, c: ModelConfig) -> int:
        return c.encoder_depth + c.decoder_depth


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


KIND = MARKind()
