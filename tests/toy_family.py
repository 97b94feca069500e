"""A second family, unlike MAR: texts in the place of classes, a code beside each token's values, and an order of reveal that follows
from the model's own confidence."""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn

from marval_ray.diffusion.head import DenoisingHead
from marval_ray.diffusion.samplers import OneStep
from marval_ray.families import PLACES
from marval_ray.families.base import Backbone, Family, RecordedLoop
from marval_ray.types import Tokens

PLACES["toy"] = "toy_family:FAMILY"
TEXTS, SIDE, CODES, CHANNELS, WIDTH = 7, 4, 5, 3, 16
LENGTH = SIDE**2


@dataclass(frozen=True)
class ToyConfig:
    num_tokens: int = LENGTH
    token_channels: int = CHANNELS
    num_classes: None = None
    image_size: int = 7 * SIDE
    student_timestep: int = 400
    one_step = property(lambda self: OneStep(self.student_timestep))
    family = property(lambda self: FAMILY)


@dataclass(frozen=True)
class ToyContext:
    tokens: Tokens
    texts: Tensor
    known: Tensor
    hidden: Tensor

    def to(self, device):
        return ToyContext(*(getattr(self, field.name).to(device) for field in fields(self)))

    def hidden_values(self):
        return at(self.tokens.values, self.hidden)

    def with_values(self, values):
        return replace(self, tokens=replace(self.tokens, values=values))


class ToyModel(Backbone):
    head = property(lambda self: self.net)

    def __init__(self, config):
        super().__init__()
        self.config, self.net = config, DenoisingHead(CHANNELS, WIDTH, WIDTH, 1)
        self.text, self.code, self.place = (nn.Embedding(count, WIDTH) for count in (TEXTS + 1, CODES, LENGTH))
        self.value, self.logits = nn.Linear(CHANNELS, WIDTH), nn.Linear(WIDTH, CODES)

    def conditions(self, c):
        seen = (self.value(c.tokens.values) + self.code(c.tokens.codes) + self.place.weight) * c.known[..., None]
        z = torch.tanh(seen.mean(1, keepdim=True) + self.place.weight + self.text(c.texts)[:, None])
        return at(z, c.hidden).flatten(0, 1)

    def unconditional(self, c):
        return replace(c, texts=torch.full_like(c.texts, TEXTS))


class ToyCodec:
    id = "toy"
    to = lambda self, device: self  # noqa: E731
    decode = lambda self, tokens: torch.tanh(nn.Upsample(scale_factor=7)(tokens.values.mean(-1).unflatten(1, (1, SIDE, SIDE))))  # noqa: E731


class ToyFamily(Family):
    name = "toy"
    config = lambda self, found: ToyConfig(**found)  # noqa: E731
    build = lambda self, config: ToyModel(config)  # noqa: E731
    codec = lambda self, path, config: ToyCodec()  # noqa: E731
    check_data = lambda self, path, config, codec=None: None  # noqa: E731
    contexts = lambda self, path, config, rank, world, texts=None: self  # noqa: E731

    def batch(self, seed, step, size, generator, drop=0.0):
        values, codes = torch.randn(size, LENGTH, CHANNELS, generator=generator), torch.randint(CODES, (size, LENGTH), generator=generator)
        order, texts = torch.rand(size, LENGTH, generator=generator).argsort(1), torch.randint(TEXTS, (size,), generator=generator)
        texts = torch.where(torch.rand(size, generator=generator) < drop, TEXTS, texts)
        return ToyContext(Tokens(values, codes), texts, order.argsort(1) < LENGTH // 2, order[:, LENGTH // 2 :])

    def conditioner(self, config, device, texts=None):
        return lambda prompts: torch.tensor([len(text) % TEXTS for text in prompts.texts], device=device)

    def reveal(self, model, sampler, texts, draws, loops):
        noise, *steps = noises(draws, sampler)
        everywhere = torch.arange(LENGTH).expand(len(noise), -1)
        tokens = Tokens(torch.zeros_like(noise), torch.zeros_like(everywhere), torch.full_like(everywhere, -1))
        for loop, share in enumerate(torch.arange(LENGTH).tensor_split(loops)):
            known = tokens.revealed >= 0
            logits = model.logits(model.conditions(ToyContext(tokens, texts, known, everywhere))).unflatten(0, known.shape)
            confidence, codes = (logits + 0.1 * draws.starts.noise("code", loop, (LENGTH, CODES))).max(-1)
            hidden = confidence.masked_fill(known, -torch.inf).topk(len(share), 1).indices.sort(1).values
            first, *rest = (at(part, hidden).flatten(0, 1) for part in (noise, *steps))
            z = model.conditions(ToyContext(tokens, texts, known, hidden))
            drawn = sampler(model.head, z, first, torch.stack(rest) if rest else first.new_empty(0, *first.shape), 1.0)
            values = tokens.values.scatter(1, hidden[..., None].expand(-1, -1, CHANNELS), drawn.unflatten(0, hidden.shape))
            tokens = Tokens(values, torch.where(known, tokens.codes, codes), tokens.revealed.scatter(1, hidden, loop))
            yield tokens

    def recorded(self, rollout, texts, sampler, loops):
        tokens, (noise, *steps) = rollout.tokens, noises(rollout.draws, sampler)
        for loop in range(loops):
            hidden = (tokens.revealed == loop).nonzero()[:, 1].unflatten(0, (len(tokens), -1))
            parts = (at(part, hidden).flatten(0, 1) for part in (noise, tokens.values, *steps))
            yield RecordedLoop(ToyContext(tokens, texts, tokens.revealed < loop, hidden), *parts)


FAMILY = ToyFamily()


def noises(draws, sampler):
    return [(draws if step else draws.starts).noise("noise", step, (LENGTH, CHANNELS)) for step in range(1 + sampler.noise_steps)]


def at(values, places):
    return values[torch.arange(len(places))[:, None], places]
