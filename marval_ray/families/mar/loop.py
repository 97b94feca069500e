"""The auto-regressive loop, once, for the teacher (n diffusion steps, CFG) and the one-step student.

Orders and noise are inputs, so a run can be replayed, also with gradients and from the middle. Noise belongs to an
image and a position, hence an image does not depend on its batch-mates.

Shape suffixes: B images, L tokens an image, P tokens predicted in this loop, D token channels, S diffusion steps.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from marval_ray.diffusion.samplers import TokenSampler
from marval_ray.draws import Draws
from marval_ray.families.base import RecordedLoop
from marval_ray.families.mar.context import MARContext
from marval_ray.families.mar.masking import hidden_after_loops
from marval_ray.families.mar.model import MAR
from marval_ray.positions import gather_tokens, scatter_tokens


@dataclass(frozen=True)
class Randomness:
    """All that is drawn for a batch of images.

    orders: a permutation of the positions, one a row; tokens are revealed from its END.
    initial: N(0, std^2), the x_T of the teacher's chain or the n of the student.
    steps: N(0, 1), the noise of each reverse step, in the order in which steps are taken; S = 0 for a student.
    """

    orders: Int64[Tensor, "B L"]
    initial: Float[Tensor, "B L D"]
    steps: Float[Tensor, "S B L D"]

    @classmethod
    def of(cls, draws: Draws, tokens: int, channels: int, steps: int, std: float = 1.0) -> "Randomness":
        """Draw for each image, on the CPU: its order, its initial noise, of deviation `std`, and that of `steps` steps."""
        orders, initial, noise = zip(*(_draw_image(generator, tokens, channels, steps) for generator in draws.generators()))
        if draws.group > 1:
            orders, initial, _ = zip(*(_draw_image(generator, tokens, channels, 0) for generator in draws.starts.generators()))
        return cls(torch.stack(orders), std * torch.stack(initial), torch.stack(noise, dim=1))

    def to(self, device: torch.device | str) -> "Randomness":
        return Randomness(self.orders.to(device), self.initial.to(device), self.steps.to(device))


def _draw_image(generator: torch.Generator, tokens: int, channels: int, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    order = torch.randperm(tokens, generator=generator)
    initial = torch.randn(tokens, channels, generator=generator)
    return order, initial, torch.randn(steps, tokens, channels, generator=generator)


@dataclass(frozen=True)
class Loop:
    """One AR loop: ascending positions that are known before it and that it predicts."""

    known: Int64[Tensor, "B K"]
    predicted: Int64[Tensor, "B P"]
    revealed: float
    """Share of tokens that the mask schedule counts as known after this loop: (L - 1) / L, not 1, in the last one."""


def plan_loops(orders: Int64[Tensor, "B L"], loops: int, reveal: float | None = None) -> Iterator[Loop]:
    """Yield the loops that reveal something, in order. Positions are sorted, as the reference visits them."""
    length = hidden = orders.shape[1]
    for remaining in hidden_after_loops(length, loops, reveal):
        if remaining == hidden:
            continue
        known, predicted = orders[:, hidden:].sort(dim=1).values, orders[:, remaining:hidden].sort(dim=1).values
        # The schedule never goes below one hidden token: MAR's linear CFG ends just short of its full scale.
        yield Loop(known, predicted, (length - max(1, remaining)) / length)
        hidden = remaining


def run_loop(
    model: MAR, sampler: TokenSampler, tokens: Float[Tensor, "B L D"], labels: Int64[Tensor, " B"],
    loop: Loop, random: Randomness,
) -> Float[Tensor, "B L D"]:  # fmt: skip
    """Predict the tokens of one loop and write them into a copy of `tokens`."""
    context = MARContext(tokens, labels, loop.known, loop.predicted)
    z = model.conditions(context.followed_by(model.unconditional(context)) if sampler.guided else context)
    initial = gather_tokens(random.initial, loop.predicted).flatten(0, 1)
    steps = random.steps.take_along_dim(loop.predicted[None, :, :, None], dim=2).flatten(1, 2)
    values = sampler(model.head, z, initial, steps, loop.revealed)
    return scatter_tokens(tokens, loop.predicted, values.unflatten(0, loop.predicted.shape))


def sample_loops(
    model: MAR, sampler: TokenSampler, labels: Int64[Tensor, " B"], random: Randomness, loops: int
) -> Iterator[Float[Tensor, "B L D"]]:
    """Yield the tokens after each AR loop; hidden ones are zero."""
    tokens = torch.zeros_like(random.initial)
    for loop in plan_loops(random.orders, loops, sampler.reveal):
        tokens = run_loop(model, sampler, tokens, labels, loop, random)
        yield tokens


def sample_tokens(
    model: MAR, sampler: TokenSampler, labels: Int64[Tensor, " B"], random: Randomness, loops: int
) -> Float[Tensor, "B L D"]:
    """Draw whole images in `loops` AR loops (1..; more loops than tokens add nothing)."""
    *_, tokens = sample_loops(model, sampler, labels, random, loops)
    return tokens


def recorded_loops(
    tokens: Float[Tensor, "B L D"], labels: Int64[Tensor, " B"], random: Randomness, loops: int, reveal: float | None = None
) -> Iterator[RecordedLoop]:
    """Yield what was known, predicted and drawn in each loop of finished images."""
    for loop in plan_loops(random.orders, loops, reveal):
        context = MARContext(tokens, labels, loop.known, loop.predicted)
        parts = (random.initial, tokens, *random.steps[:1])
        yield RecordedLoop(context, *(gather_tokens(part, loop.predicted).flatten(0, 1) for part in parts))
