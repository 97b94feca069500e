"""A second family, small and unlike MAR: texts instead of classes, a code beside each token's values, and an order of reveal that
follows from the model's own confidence."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from marval_ray.diffusion.head import DenoisingHead
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

    @property
    def family(self):
        return FAMILY


@dataclass(frozen=True)
class ToyContext:
    tokens: Tokens
    texts: Tensor
    known: Tensor
    hidden: Tensor

    def to(self, device):
        return ToyContext(*(part.to(device) for part in (self.tokens, self.texts, self.known, self.hidden)))

    def with_values(self, values):
        return replace(self, tokens=replace(self.tokens, values=values))


class ToyModel(Backbone):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.text, self.code, self.place = nn.Embedding(TEXTS + 1, WIDTH), nn.Embedding(CODES, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.value, self.mix, self.logits = nn.Linear(CHANNELS, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CODES)
        self.net = DenoisingHead(CHANNELS, WIDTH, WIDTH, 1)

    @property
    def head(self):
        return self.net

    def conditions(self, c):
        seen = (self.value(c.tokens.values.to(self.dtype)) + self.code(c.tokens.codes) + self.place.weight) * c.known[..., None]
        z = torch.tanh(self.mix(seen.mean(1, keepdim=True) + self.place.weight + self.text(c.texts)[:, None]))
        return z.take_along_dim(c.hidden[..., None], 1).flatten(0, 1)

    def unconditional(self, c):
        return replace(c, texts=torch.full_like(c.texts, TEXTS))


class ToyCodec:
    id = "toy"

    def to(self, device):
        return self

    def decode(self, tokens):
        grey = tokens.values.mean(-1).unflatten(1, (1, SIDE, SIDE))
        return torch.tanh(F.interpolate(grey, scale_factor=7))


class ToyData:
    def batch(self, seed, step, size, generator):
        tokens = Tokens(torch.randn(size, LENGTH, CHANNELS, generator=generator), torch.randint(CODES, (size, LENGTH), generator=generator))
        hidden = torch.rand(size, LENGTH, generator=generator).argsort(1)[:, : LENGTH // 2]
        known = torch.ones(size, LENGTH, dtype=torch.bool).scatter(1, hidden, False)
        return ToyContext(tokens, torch.randint(TEXTS, (size,), generator=generator), known, hidden)


class ToyFamily(Family):
    name = "toy"

    def config(self, fields):
        return ToyConfig(**fields)

    def build(self, config):
        return ToyModel(config)

    def codec(self, path, config):
        return ToyCodec()

    def check_data(self, path, config, codec=None):
        pass

    def contexts(self, path, config, rank, world):
        return ToyData()

    def conditioner(self, config, device):
        return lambda prompts: torch.tensor([len(text) % TEXTS for text in prompts.texts], device=device)

    def reveal(self, model, sampler, texts, draws, loops):
        noise, steps = _noise(draws, sampler)
        tokens = Tokens(torch.zeros_like(noise), torch.zeros_like(noise[..., 0]).long(), torch.full_like(noise[..., 0], -1).long())
        for loop, share in enumerate(torch.arange(LENGTH).tensor_split(loops)):
            known, everywhere = tokens.revealed >= 0, torch.arange(LENGTH).expand(len(noise), -1)
            logits = model.logits(model.conditions(ToyContext(tokens, texts, known, everywhere))).unflatten(0, known.shape)
            confidence, codes = (logits + 0.1 * draws.noise("code", loop, (LENGTH, CODES))).max(-1)
            hidden = confidence.masked_fill(known, -torch.inf).topk(len(share), 1).indices.sort(1).values
            z = model.conditions(ToyContext(tokens, texts, known, hidden))
            drawn = sampler(model.head, z, _at(noise, hidden).flatten(0, 1), _at(steps, hidden).flatten(1, 2), 1.0)
            tokens = Tokens(
                tokens.values.scatter(1, hidden[..., None].expand(-1, -1, CHANNELS), drawn.unflatten(0, hidden.shape)),
                torch.where(known, tokens.codes, codes), tokens.revealed.scatter(1, hidden, loop),
            )
            yield tokens

    def recorded(self, rollout, texts, sampler, loops):
        tokens, (noise, steps) = rollout.tokens, _noise(rollout.draws, sampler)
        for loop in range(loops):
            hidden = (tokens.revealed == loop).nonzero()[:, 1].unflatten(0, (len(tokens), -1))
            parts = [_at(part, hidden).flatten(0, 1) for part in (noise, tokens.values, *steps)]
            yield RecordedLoop(ToyContext(tokens, texts, tokens.revealed < loop, hidden), *parts)


FAMILY = ToyFamily()


def _noise(draws, sampler):
    initial = draws.noise("initial", 0, (LENGTH, CHANNELS))
    steps = [draws.noise("step", step, (LENGTH, CHANNELS)) for step in range(sampler.noise_steps)]
    return initial, torch.stack(steps) if steps else initial[None, :0].new_empty(0, *initial.shape)


def _at(values, places):
    return values[..., torch.arange(len(places))[:, None], places, :]
