"""The auto-regressive loop, once, for the teacher (n diffusion steps, CFG) and the one-step student.

Orders and noise are inputs, so a run can be replayed, also with gradients and from the middle. Noise belongs to an
image and a position, hence an image does not depend on its batch-mates.

Shape suffixes: B images, L tokens an image, P tokens predicted in this loop, D token channels, S diffusion steps.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from marval_ray.losses.mar import reverse_moments
from marval_ray.models.head import DenoisingHead
from marval_ray.models.mar import MAR, gather_tokens, scatter_tokens
from marval_ray.schedule import Diffusion, cosine_diffusion, hidden_after_loops

Schedule = Literal["linear", "constant"]


@dataclass(frozen=True)
class Draws:
    """All randomness of a batch of images.

    orders: a permutation of the positions, one a row; tokens are revealed from its END.
    initial: N(0, 1), the x_T of the teacher's chain or the n of the student.
    steps: N(0, 1), the noise of each reverse step, in the order in which steps are taken; S = 0 for a student.
    """

    orders: Int64[Tensor, "B L"]
    initial: Float[Tensor, "B L D"]
    steps: Float[Tensor, "S B L D"]

    @classmethod
    def from_seed(cls, seed: int, indices: list[int], tokens: int, channels: int, steps: int) -> "Draws":
        """Draws of the images `indices` of the run `seed`: each depends on (seed, index) alone."""
        drawn = [_draw_image(seed, index, tokens, channels, steps) for index in indices]
        orders, initial, noise = zip(*drawn)
        return cls(torch.stack(orders), torch.stack(initial), torch.stack(noise, dim=1))

    def to(self, device: torch.device | str) -> "Draws":
        return Draws(self.orders.to(device), self.initial.to(device), self.steps.to(device))


def image_generator(seed: int, index: int) -> torch.Generator:
    """A CPU generator for image `index` of run `seed`. The odd multiplier keeps different pairs apart."""
    return torch.Generator().manual_seed((seed * 0x9E3779B97F4A7C15 + index) % 2**63)


def _draw_image(seed: int, index: int, tokens: int, channels: int, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = image_generator(seed, index)
    order = torch.randperm(tokens, generator=generator)
    initial = torch.randn(tokens, channels, generator=generator)
    return order, initial, torch.randn(steps, tokens, channels, generator=generator)


class TokenSampler(Protocol):
    """Draws the tokens of one loop from their conditions."""

    @property
    def guided(self) -> bool:
        """Whether the second half of the rows of z is the unconditional half."""

    @property
    def noise_steps(self) -> int:
        """How many noises a token needs in `Draws.steps`."""

    def __call__(
        self,
        head: DenoisingHead,
        z: Float[Tensor, "M W"],
        initial: Float[Tensor, "N D"],
        steps: Float[Tensor, "S N D"],
        revealed: float,
    ) -> Float[Tensor, "N D"]:
        """x_0 of N tokens; M = 2 N when guided, else N. `revealed` is the share of tokens known after this loop."""


@dataclass(frozen=True)
class OneStep:
    """The student: x_0 = (n - sigma_t* eps(n, t*, z)) / alpha_t*, one call of the head a token."""

    timestep: int
    guided: bool = False
    noise_steps: int = 0

    def __call__(
        self, head: DenoisingHead, z: Tensor, initial: Tensor, steps: Tensor, revealed: float
    ) -> Tensor:
        t = torch.full((1,), self.timestep, device=z.device)
        alpha, sigma = cosine_diffusion(device=z.device).alpha_sigma(t)
        eps, _ = head(initial.to(z.dtype), t, z)
        return (initial - sigma * eps.float()) / alpha


@dataclass(frozen=True)
class Exploring:
    """The student as a Gaussian policy: its one-step prediction plus `std` times N(0, I)."""

    timestep: int
    std: float
    guided: bool = False
    noise_steps: int = 1

    def __call__(
        self, head: DenoisingHead, z: Tensor, initial: Tensor, steps: Tensor, revealed: float
    ) -> Tensor:
        return OneStep(self.timestep)(head, z, initial, steps, revealed) + self.std * steps[0]


@dataclass(frozen=True)
class Ancestral:
    """The teacher: `steps` respaced reverse steps with classifier-free guidance and learned variance.

    cfg_schedule "linear" (MAR) raises the scale from 1 to nearly `cfg` as tokens are revealed.
    temperature scales the noise of each reverse step, not the initial noise.
    clip_x0 bounds predicted x_0; MAR does not clip, small teachers need it.
    """

    steps: int = 100
    cfg: float = 1.0
    cfg_schedule: Schedule = "linear"
    temperature: float = 1.0
    clip_x0: float | None = None

    @property
    def guided(self) -> bool:
        return self.cfg != 1.0

    @property
    def noise_steps(self) -> int:
        return self.steps

    def scale(self, revealed: float) -> float:
        return 1 + (self.cfg - 1) * revealed if self.cfg_schedule == "linear" else self.cfg

    def __call__(
        self, head: DenoisingHead, z: Tensor, initial: Tensor, steps: Tensor, revealed: float
    ) -> Tensor:
        diffusion = cosine_diffusion(self.steps, z.device)
        condition = head.condition(z)
        x = initial
        for noise, index in zip(steps, reversed(range(self.steps))):
            eps, v = self.guided_noise(head, x, diffusion.timesteps[index : index + 1], condition, revealed)
            x = self.reverse_step(x, eps, v, noise, index, diffusion)
        return x

    def guided_noise(
        self, head: DenoisingHead, x: Tensor, t: Tensor, condition: Tensor, revealed: float
    ) -> tuple[Tensor, Tensor]:
        """eps = eps_u + scale (eps_c - eps_u), both halves on the same x; v is the conditional one."""
        if not self.guided:
            eps, v = head.denoise(x.to(condition.dtype), t, condition)
            return eps.float(), v.float()
        eps, v = head.denoise(torch.cat([x, x]).to(condition.dtype), t, condition)
        conditional, unconditional = eps.float().chunk(2)
        return unconditional + self.scale(revealed) * (conditional - unconditional), v.float().chunk(2)[0]

    def reverse_step(
        self, x: Tensor, eps: Tensor, v: Tensor, noise: Tensor, index: int, diffusion: Diffusion
    ) -> Tensor:
        """x_{i-1} ~ p(. | x_i); the last step (index 0) adds no noise."""
        t = torch.full((1,), index, device=x.device)
        mean, log_variance = reverse_moments(x, eps, v, t, diffusion, self.clip_x0)
        if index == 0:
            return mean
        return mean + self.temperature * (0.5 * log_variance).exp() * noise


@dataclass(frozen=True)
class Loop:
    """One AR loop: ascending positions that are known before it and that it predicts."""

    known: Int64[Tensor, "B K"]
    predicted: Int64[Tensor, "B P"]
    revealed: float
    """Share of tokens that the mask schedule counts as known after this loop: (L - 1) / L, not 1, in the last one."""


def plan_loops(orders: Int64[Tensor, "B L"], loops: int) -> Iterator[Loop]:
    """The loops that reveal something, in order. Positions are sorted, as the reference visits them."""
    length = hidden = orders.shape[1]
    for remaining in hidden_after_loops(length, loops):
        if remaining == hidden:
            continue
        known, predicted = orders[:, hidden:].sort(dim=1).values, orders[:, remaining:hidden].sort(dim=1).values
        # The schedule never goes below one hidden token: MAR's linear CFG ends just short of its full scale.
        yield Loop(known, predicted, (length - max(1, remaining)) / length)
        hidden = remaining


def run_loop(
    model: MAR, sampler: TokenSampler, tokens: Float[Tensor, "B L D"], labels: Int64[Tensor, " B"],
    loop: Loop, draws: Draws,
) -> Float[Tensor, "B L D"]:  # fmt: skip
    """Predict the tokens of one loop and write them into a copy of `tokens`."""
    z = model_conditions(model, tokens, labels, loop, sampler.guided)
    initial = gather_tokens(draws.initial, loop.predicted).flatten(0, 1)
    steps = [gather_tokens(step, loop.predicted).flatten(0, 1) for step in draws.steps]
    noise = torch.stack(steps) if steps else initial.new_empty(0, *initial.shape)
    values = sampler(model.head, z, initial, noise, loop.revealed)
    return scatter_tokens(tokens, loop.predicted, values.unflatten(0, loop.predicted.shape))


def model_conditions(model: MAR, tokens: Tensor, labels: Tensor, loop: Loop, guided: bool) -> Float[Tensor, "M W"]:
    """z of the predicted tokens, row by row; with guidance the rows under the null class follow."""
    known, predicted = loop.known, loop.predicted
    if guided:
        null = torch.full_like(labels, model.config.num_classes)
        tokens, labels = torch.cat([tokens, tokens]), torch.cat([labels, null])
        known, predicted = torch.cat([known, known]), torch.cat([predicted, predicted])
    return model(tokens.to(model.mask_token.dtype), labels, known, predicted).flatten(0, 1)


def sample_loops(
    model: MAR, sampler: TokenSampler, labels: Int64[Tensor, " B"], draws: Draws, loops: int
) -> Iterator[Float[Tensor, "B L D"]]:
    """Tokens after each AR loop; hidden ones are zero."""
    tokens = torch.zeros_like(draws.initial)
    for loop in plan_loops(draws.orders, loops):
        tokens = run_loop(model, sampler, tokens, labels, loop, draws)
        yield tokens


def sample_tokens(
    model: MAR, sampler: TokenSampler, labels: Int64[Tensor, " B"], draws: Draws, loops: int
) -> Float[Tensor, "B L D"]:
    """Whole images in `loops` AR loops (1..; more loops than tokens add nothing)."""
    *_, tokens = sample_loops(model, sampler, labels, draws, loops)
    return tokens


