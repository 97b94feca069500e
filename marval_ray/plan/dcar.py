"""DC-AR's part of a plan: it reads texts, sees all tokens in each of its loops, and draws values in the last one alone.

Shape suffixes: B images, T tokens of a text.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import T5Config, T5EncoderModel

from marval_ray.config import GSIMConfig, LearnerConfig, RLConfig
from marval_ray.distil.student import Student
from marval_ray.families.base import Codec, Conditioner
from marval_ray.families.dcar.choices import CodeChoices
from marval_ray.families.dcar.codec import DCHTCodec
from marval_ray.families.dcar.config import DCARConfig
from marval_ray.families.dcar.context import DCARContext, TextStates
from marval_ray.families.dcar.family import DCARFamily
from marval_ray.families.dcar.masking import hidden_after_loops
from marval_ray.families.dcar.model import DCAR
from marval_ray.families.dcar.text import KEPT
from marval_ray.families.dcar.tokenizer import DCHT, DCHTConfig
from marval_ray.plan.cost import Work, counted, reward_tflop
from marval_ray.plan.counting import META, LiveBytes, draws_of, floats, values_of
from marval_ray.plan.kinds import Kind
from marval_ray.plan.learners import Pull, learning, matching_loss, replay_loss, trained
from marval_ray.plan.zero import Engine
from marval_ray.reinforce.objective import rollout_sampler
from marval_ray.reinforce.scoring import Scorer
from marval_ray.types import Rollout, Tokens

ONE = LearnerConfig(batch=1)


class StoragelessFamily(DCARFamily):
    """DC-AR whose texts are states of the right size, and whose codes stay in the numbers of the schedule, as no tensor tells them."""

    def conditioner(self, config: DCARConfig, device: torch.device, texts: Path | None = None) -> Conditioner:  # type: ignore[override]
        return lambda prompts: text_states(config, len(prompts))

    def choices(self, rollout: Rollout, config: DCARConfig, condition: TextStates) -> Iterator[CodeChoices]:
        batch, loops = len(rollout), rollout.loops
        after = hidden_after_loops(config.num_tokens, loops)
        for loop, count in enumerate(before - now for before, now in zip([config.num_tokens, *after], after[:-1])):
            if count:
                places, codes, images = longs(3, batch * count).unbind()
                yield CodeChoices(longs(batch, config.num_tokens), condition, places, codes, images, (loop + 1) / loops)


@dataclass(frozen=True)
class StoragelessConfig(DCARConfig):
    """Sizes of DC-AR. texts: the folder of its text encoder; None: one of t5-base's sizes."""

    texts: Path | None = None

    @property
    def family(self) -> StoragelessFamily:
        return StoragelessFamily()

    @property
    def encoder(self) -> T5Config:
        if self.texts is not None:
            return T5Config.from_pretrained(self.texts, local_files_only=True)
        return T5Config(d_model=self.text_width, d_ff=3072, num_layers=12, num_heads=12)


def longs(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.long, device=META)


def text_states(c: DCARConfig, batch: int) -> TextStates:
    states = torch.empty(batch, c.text_length, c.text_width, device=META)
    return TextStates(states, torch.empty(batch, c.text_length, dtype=torch.bool, device=META))


class T5Reader:
    """T5's encoder in a process that keeps the states of as many texts as it may."""

    def __init__(self, c: StoragelessConfig):
        with META:
            self.model = T5EncoderModel(c.encoder).eval().requires_grad_(False)
        self.length = c.text_length

    @torch.no_grad()
    def __call__(self) -> Tensor:
        """Read a text by itself, as all are."""
        return floats(KEPT * self.model(input_ids=longs(1, self.length)).last_hidden_state.numel())


@dataclass(frozen=True)
class Masked:
    """Contexts of stage 1."""

    model: DCARConfig

    def batch(self, seed: int, step: int, size: int, generator: torch.Generator, drop: float = 0.0) -> DCARContext:
        c, codes = self.model, longs(size, self.model.num_tokens)
        return DCARContext.of(codes, torch.empty_like(codes, dtype=torch.bool), text_states(c, size), values_of(c, size))


class DCARKind(Kind):
    def without_files(self, c: DCARConfig, texts: Path | None) -> StoragelessConfig:
        return StoragelessConfig(**asdict(c), texts=texts)

    def reader(self, c: StoragelessConfig) -> T5Reader:
        return T5Reader(c)

    def tokens(self, c: DCARConfig, batch: int) -> Tokens:
        codes, revealed = longs(2, batch, c.num_tokens).unbind()
        return Tokens(values_of(c, batch), codes, revealed)

    def contexts(self, c: DCARConfig) -> Sequence[Masked]:
        return [Masked(c)]

    def codec(self, c: DCARConfig) -> Codec:
        sizes = DCHTConfig(token_channels=c.token_channels, num_codes=c.num_codes)
        return DCHTCodec(DCHT(sizes).eval().requires_grad_(False), c)

    def replays(self, rl: RLConfig) -> list[int]:
        return [1]

    def held_by_loops(self, student: Engine, live: LiveBytes, batch: int, rl: RLConfig) -> list[int]:
        return []

    def work(self, c: StoragelessConfig, gsim: GSIMConfig, rl: RLConfig, scorer: Scorer) -> Work:
        """Count all by doing it for one image. Each has a text of its own, which whoever draws it or learns from it reads."""
        text = counted(self.reader(c))
        reward = reward_tflop(scorer, self.tokens(c, 1))
        return Work(text + gsim_tflop(c, gsim), text + rollout_tflop(c, rl), reward, text + replay_tflop(c, rl))

    def blocks(self, c: DCARConfig) -> int:
        return c.depth


def gsim_tflop(c: StoragelessConfig, gsim: GSIMConfig) -> float:
    student, pull = Engine(Student(trained(c, gsim)), ONE, gpu=False), Pull(c, gsim)
    matcher = pull.matcher(ONE, False, Masked(c), gsim.freeze_backbone)
    return counted(lambda: student.update(matching_loss(matcher, student)))


def rollout_tflop(c: StoragelessConfig, rl: RLConfig) -> float:
    with META:
        model = DCAR(c)
    text = text_states(c, 1)
    with torch.no_grad():
        return counted(lambda: list(c.family.reveal(model, rollout_sampler(c, rl), text, draws_of(1), rl.loops[0])))


def replay_tflop(c: StoragelessConfig, rl: RLConfig) -> float:
    network, initial = learning(c, rl)
    student = Engine(network, ONE, gpu=False)
    return counted(lambda: student.update(replay_loss(c, replace(rl, group=1), ONE.batch, student, initial)))


KIND = DCARKind()
