"""Speed beside the authors' own code: a checkout of https://github.com/LTH14/mar, which is not part of this project.

    git clone https://github.com/LTH14/mar && pip install scipy timm
    python bench/reference.py mar --batches 1 8

Both sides run the same loops in turn, with the same weights and draws, in float32 on this CPU; their results are compared before
anything is timed. A ratio is the sum of their best times over the sum of ours.
"""

import importlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro
from sampling import random_model, spread
from torch import Tensor, nn

from marval_ray import cli
from marval_ray.diffusion.loss import denoising_loss
from marval_ray.diffusion.samplers import Ancestral, TokenSampler
from marval_ray.diffusion.schedule import cosine_diffusion
from marval_ray.evaluation.metrics import markdown_table
from marval_ray.families.mar.config import ModelConfig
from marval_ray.families.mar.context import MARContext
from marval_ray.families.mar.loop import Loop, Randomness, plan_loops, run_loop
from marval_ray.families.mar.model import MAR
from marval_ray.positions import gather_tokens
from marval_ray.presets import MAR_MODELS, ClassPresetName

TOLERANCE = 1e-3
"""Largest gap between the two sides' results, in standard deviations of a result."""
REPEATS = 4
"""Draws of (t, e) a token in an update: MAR's diffusion_batch_mul."""
HIDDEN = 0.84
"""Share of hidden tokens in an update: the mean of MAR's distribution."""


@dataclass(frozen=True)
class Config:
    path: tyro.conf.Positional[Path]
    """The checkout."""
    preset: ClassPresetName = "mar-b"
    batches: tuple[int, ...] = (1, 8)
    loops: int = 64
    """AR loops of a whole image."""
    measured: int = 3
    """How many of them are run, evenly spread."""
    rounds: int = 3
    """Times that each side runs, in turn; its best time counts."""
    steps: int = 100
    """The teacher's diffusion steps."""
    cfg: float = 3.0
    """The teacher's guidance scale."""


@dataclass(frozen=True)
class Pair:
    """The same work by both sides: a loop of sampling gives its tokens, an update the loss and a gradient."""

    theirs: Callable[[], Tensor]
    ours: Callable[[], Tensor]


class Reference:
    """Their model, without dropout, and how its loops and updates are made of its own functions."""

    def __init__(self, path: Path, config: ModelConfig, model: MAR, steps: int):
        code = imported(path)
        self.config = c = config
        self.net = code.MAR(
            img_size=c.latent_size * 16, vae_stride=16, patch_size=c.patch_size, vae_embed_dim=c.latent_channels,
            encoder_embed_dim=c.encoder_width, encoder_depth=c.encoder_depth, encoder_num_heads=c.encoder_heads,
            decoder_embed_dim=c.decoder_width, decoder_depth=c.decoder_depth, decoder_num_heads=c.decoder_heads,
            mlp_ratio=c.mlp_ratio, norm_layer=partial(nn.LayerNorm, eps=c.norm_eps), class_num=c.num_classes,
            buffer_size=c.buffer_size, attn_dropout=0.0, proj_dropout=0.0, diffloss_d=c.head_depth, diffloss_w=c.head_width,
            num_sampling_steps=str(steps), diffusion_batch_mul=REPEATS,
        ).eval()  # fmt: skip
        self.net.load_state_dict(model.state_dict())

    def conditions(self, tokens: Tensor, labels: Tensor, hidden: Tensor, guided: bool) -> Tensor:
        """Return z of all positions, of the null class behind if guided, as their `sample_tokens` has it. hidden: 1 or 0."""
        embedding = self.net.class_emb(labels)
        if guided:
            tokens, hidden = torch.cat([tokens, tokens]), torch.cat([hidden, hidden])
            embedding = torch.cat([embedding, self.net.fake_latent.repeat(len(labels), 1)])
        return self.net.forward_mae_decoder(self.net.forward_mae_encoder(tokens, hidden, embedding), hidden)

    def teacher_loop(self, tokens: Tensor, labels: Tensor, loop: Loop, cfg: float, seed: int) -> Tensor:
        """Return the tokens that one loop of the teacher predicts, drawn from torch's own generator."""
        hidden, wanted = self.masks(loop)
        z = self.conditions(tokens, labels, hidden, True)[torch.cat([wanted, wanted]).nonzero(as_tuple=True)]
        torch.manual_seed(seed)
        return self.net.diffloss.sample(z, 1.0, cfg).chunk(2)[0]

    def student_loop(self, tokens: Tensor, labels: Tensor, loop: Loop, initial: Tensor, timestep: int) -> Tensor:
        """Return the one-step prediction, by their network: what a user of theirs would write."""
        hidden, wanted = self.masks(loop)
        z = self.conditions(tokens, labels, hidden, False)[wanted.nonzero(as_tuple=True)]
        t = torch.full((len(z),), timestep)
        eps = self.net.diffloss.net(initial, t, z)[:, : initial.shape[1]]
        return self.net.diffloss.train_diffusion._predict_xstart_from_eps(initial, t, eps)

    def update(self, tokens: Tensor, labels: Tensor, context: MARContext, seed: int) -> Tensor:
        """Return loss and gradient at the last layer of the decoder, of which t and e come from torch's own generator."""
        hidden = torch.zeros(tokens.shape[:2]).scatter(1, context.hidden, 1.0)
        self.net.zero_grad()
        z = self.conditions(tokens, labels, hidden, False)
        torch.manual_seed(seed)
        loss = self.net.forward_loss(z=z, target=tokens, mask=hidden)
        loss.backward()
        return learnt(loss, self.net.decoder_embed)

    def masks(self, loop: Loop) -> tuple[Tensor, Tensor]:
        """Return (B, L): what is hidden before the loop as 1 and 0, and what it predicts."""
        shape = (len(loop.known), self.config.num_tokens)
        return torch.ones(shape).scatter(1, loop.known, 0.0), torch.zeros(shape).scatter(1, loop.predicted, 1.0).bool()


def imported(path: Path) -> Any:
    """Import their models/mar.py, and keep it on the CPU. Raises ValueError when it is not there or lacks a package."""
    if not (path / "models/mar.py").is_file():
        raise ValueError(f"{path} is no checkout of https://github.com/LTH14/mar: it has no models/mar.py")
    sys.path.insert(0, str(path.resolve()))
    torch.Tensor.cuda = lambda tensor, *_, **__: tensor  # type: ignore[method-assign]  # they ask for a GPU in so many places
    try:
        return importlib.import_module("models.mar")
    except ImportError as error:
        raise ValueError(f"the code in {path} needs more than this project: {error}") from error


def learnt(loss: Tensor, layer: nn.Linear) -> Tensor:
    assert layer.weight.grad is not None
    return torch.cat([loss.detach().reshape(1), layer.weight.grad.flatten()])


def teacher_pairs(reference: Reference, model: MAR, loops: list[Loop], batch: int, config: Config) -> Iterator[Pair]:
    sampler = Ancestral(steps=config.steps, cfg=config.cfg)
    tokens, labels = start(model.config, batch)
    for seed, loop in enumerate(loops):
        random = drawn(loop, tokens.shape, config.steps, seed)
        scale = sampler.scale(loop.revealed)
        theirs = partial(reference.teacher_loop, tokens, labels, loop, scale, seed)
        yield Pair(theirs, partial(own_loop, model, sampler, tokens, labels, loop, random))


def student_pairs(reference: Reference, model: MAR, loops: list[Loop], batch: int) -> Iterator[Pair]:
    sampler = model.one_step
    tokens, labels = start(model.config, batch)
    for seed, loop in enumerate(loops):
        random = drawn(loop, tokens.shape, 0, seed)
        initial = gather_tokens(random.initial, loop.predicted).flatten(0, 1)
        theirs = partial(reference.student_loop, tokens, labels, loop, initial, sampler.timestep)
        yield Pair(theirs, partial(own_loop, model, sampler, tokens, labels, loop, random))


def update_pair(reference: Reference, model: MAR, batch: int) -> Pair:
    """An update without its optimiser: loss and gradient of teachers' training."""
    c = model.config
    tokens, labels = start(c, batch)
    orders = torch.stack([torch.randperm(c.num_tokens) for _ in range(batch)])
    hidden, known = orders.split([round(HIDDEN * c.num_tokens), c.num_tokens - round(HIDDEN * c.num_tokens)], dim=1)
    context = MARContext(tokens, labels, known.sort(dim=1).values, hidden.sort(dim=1).values)
    torch.manual_seed(0)
    t, noise = torch.randint(0, 1000, (REPEATS * batch * c.num_tokens,)), torch.randn(REPEATS * batch * c.num_tokens, c.token_channels)
    rows = torch.zeros(batch, c.num_tokens).scatter(1, context.hidden, 1.0).bool().flatten().repeat(REPEATS)
    ours = partial(own_update, model, context, t[rows], noise[rows])
    return Pair(partial(reference.update, tokens, labels, context, 0), ours)


def own_loop(model: MAR, sampler: TokenSampler, tokens: Tensor, labels: Tensor, loop: Loop, random: Randomness) -> Tensor:
    return gather_tokens(run_loop(model, sampler, tokens, labels, loop, random), loop.predicted).flatten(0, 1)


def own_update(model: MAR, context: MARContext, t: Tensor, noise: Tensor) -> Tensor:
    model.zero_grad()
    z, x_0 = model.conditions(context), context.hidden_values().flatten(0, 1)
    loss = denoising_loss(model.head, x_0.repeat(REPEATS, 1), z.repeat(REPEATS, 1), t, noise, cosine_diffusion()).value
    loss.backward()
    return learnt(loss, model.decoder_embed)


def start(c: ModelConfig, batch: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(batch, c.num_tokens, c.token_channels), torch.arange(batch) % c.num_classes


def drawn(loop: Loop, shape: torch.Size, steps: int, seed: int) -> Randomness:
    """Draw as their chain does after torch.manual_seed(seed): once at its start, then for both halves in each step."""
    torch.manual_seed(seed)
    count, channels = loop.predicted.numel(), shape[2]
    noises = [torch.randn(count, channels), *(torch.randn(2 * count, channels)[:count] for _ in range(steps))]
    places = loop.predicted[..., None].expand(-1, -1, channels)
    initial, *rest = [torch.zeros(shape).scatter(1, places, noise.reshape(places.shape)) for noise in noises]
    return Randomness(places[..., 0], initial, torch.stack(rest) if rest else initial.new_empty(0, *shape))


def gap(pair: Pair) -> float:
    """Return the largest difference of both sides' results. Raises RuntimeError when they are not the same."""
    theirs, ours = pair.theirs(), pair.ours()
    found = ((theirs - ours).abs().max() / theirs.std()).item()
    if not found <= TOLERANCE:
        raise RuntimeError(f"the two sides differ by {found:.2g} standard deviations: nothing to compare")
    return found


def row(name: str, pairs: list[Pair], batch: int, rounds: int) -> tuple[str, ...]:
    """Compare, then time."""
    worst = max(map(gap, pairs))
    theirs, ours = zip(*(best_times(pair, rounds) for pair in pairs))
    return name, str(batch), f"{sum(theirs):.2f}", f"{sum(ours):.2f}", f"{sum(theirs) / sum(ours):.2f}", f"{worst:.0e}"


def best_times(pair: Pair, rounds: int) -> tuple[float, float]:
    times = [(seconds(pair.theirs), seconds(pair.ours)) for _ in range(rounds)]
    theirs, ours = zip(*times)
    return min(theirs), min(ours)


def seconds(action: Callable[[], Tensor]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def main(config: Config) -> None:
    sizes = MAR_MODELS[config.preset]
    model = random_model(sizes, torch.device("cpu"))
    reference = Reference(config.path, sizes, model, config.steps)
    rows = []
    for batch in config.batches:
        orders = torch.stack([torch.randperm(sizes.num_tokens) for _ in range(batch)])
        loops = spread(list(plan_loops(orders, config.loops)), config.measured)
        with torch.no_grad():
            teacher = f"teacher's loop, {config.steps} steps, guidance {config.cfg:g}"
            rows.append(row(teacher, list(teacher_pairs(reference, model, loops, batch, config)), batch, config.rounds))
            rows.append(row("student's loop", list(student_pairs(reference, model, loops, batch)), batch, config.rounds))
        for network in (model, reference.net):
            network.requires_grad_(True)
        rows.append(row("training, forward and back", [update_pair(reference, model, batch)], batch, config.rounds))
    head = ("", "batch", "theirs, s", "ours, s", "theirs / ours", "largest gap, SD")
    print(f"{config.preset}, {config.measured} of {config.loops} loops, {torch.get_num_threads()} threads\n\n{markdown_table(head, rows)}")


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
