"""Samplers: from the conditions of tokens to tokens, by one step (student) or by a chain (teacher).

Shape suffixes: M rows of conditions, N tokens, D token channels, W condition width, S diffusion steps.
"""

from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from marval_ray.diffusion.head import DenoisingHead
from marval_ray.diffusion.loss import predicted_x_0, reverse_moments
from marval_ray.diffusion.schedule import Diffusion, cosine_diffusion

Schedule = Literal["linear", "constant"]


@runtime_checkable
class TokenSampler(Protocol):
    """Draws the tokens of one loop from their conditions."""

    @property
    def guided(self) -> bool:
        """Whether the second half of the rows of z is the unconditional half."""

    @property
    def initial_std(self) -> float:
        """Standard deviation of the initial noise. Who draws it takes it so; training has 1."""

    @property
    def noise_steps(self) -> int:
        """How many noises a token needs besides the initial one."""

    @property
    def reveal(self) -> float | None:
        """p > 0: after the share u of its loops an image has 1 - u^p of its tokens hidden. None: as the family has it."""

    def __call__(
        self,
        head: DenoisingHead,
        z: Float[Tensor, "M W"],
        initial: Float[Tensor, "N D"],
        steps: Float[Tensor, "S N D"],
        revealed: float,
    ) -> Float[Tensor, "N D"]:
        """Return x_0 of N tokens; M = 2 N when guided, else N. `revealed` is the share of tokens known after this loop."""


def guided(conditional: Float[Tensor, "..."], unconditional: Float[Tensor, "..."], w: float) -> Float[Tensor, "..."]:
    """Return u + w (c - u), of eps or of logits: classifier-free guidance (Ho and Salimans, arXiv 2207.12598); w = 1 is none."""
    return unconditional + w * (conditional - unconditional)


def guidance_scale(w: float, schedule: Schedule, revealed: float) -> float:
    """Return the guidance scale where the share `revealed` of an image's tokens is known: `w`, or on the way from 1 to it."""
    return 1 + (w - 1) * revealed if schedule == "linear" else w


def check_reveal(reveal: float | None) -> None:
    """Raise ValueError for an exponent that reveals no token, or all of them at once."""
    if reveal is not None and not 0 < reveal < float("inf"):
        raise ValueError(f"reveal must be a number above 0, the exponent p of 1 - u^p, got {reveal}")


@dataclass(frozen=True)
class OneStep:
    """The student: x_0 = (n - sigma_t* eps(n, t*, z)) / alpha_t*, one call of the head a token."""

    timestep: int
    reveal: float | None = None
    initial_std: float = 1.0
    guided: bool = False
    noise_steps: int = 0

    def tempered(self, temperature: float) -> "OneStep":
        """Return the same with its noise times `temperature`."""
        return replace(self, initial_std=temperature * self.initial_std)

    def __call__(
        self, head: DenoisingHead, z: Float[Tensor, "M W"], initial: Float[Tensor, "N D"], steps: Float[Tensor, "S N D"],
        revealed: float,
    ) -> Float[Tensor, "N D"]:  # fmt: skip
        """Return `predict`; it looks at neither `steps` nor `revealed`."""
        return self.predict(head, z, initial)

    def predict(
        self, head: DenoisingHead, z: Float[Tensor, "N W"], initial: Float[Tensor, "N D"]
    ) -> Float[Tensor, "N D"]:
        """Return x_0 of N tokens from their noise n = `initial`."""
        diffusion = cosine_diffusion(device=z.device)
        t = diffusion.timesteps[self.timestep : self.timestep + 1]
        alpha, sigma = diffusion.alpha_sigma(t)
        eps, _ = head(initial.to(z.dtype), t, z)
        return (initial - sigma * eps.float()) / alpha


@dataclass(frozen=True)
class Exploring:
    """A student as a Gaussian policy: its one-step prediction plus `std` times N(0, I)."""

    student: OneStep
    std: float
    guided: bool = False
    noise_steps: int = 1

    @property
    def reveal(self) -> float | None:
        return self.student.reveal

    @property
    def initial_std(self) -> float:
        return self.student.initial_std

    def __call__(
        self, head: DenoisingHead, z: Float[Tensor, "M W"], initial: Float[Tensor, "N D"], steps: Float[Tensor, "S N D"],
        revealed: float,
    ) -> Float[Tensor, "N D"]:  # fmt: skip
        return self.student.predict(head, z, initial) + self.std * steps[0]


@dataclass(frozen=True)
class Chain:
    """What chains of `steps` respaced reverse steps with classifier-free guidance have in common.

    cfg_schedule "linear" (MAR) raises the scale from 1 to nearly `cfg` as tokens are revealed.
    clip_x0 bounds predicted x_0; MAR does not clip, small teachers need it. reveal: p of `TokenSampler.reveal`.
    """

    steps: int = 100
    cfg: float = 1.0
    cfg_schedule: Schedule = "linear"
    clip_x0: float | None = None
    reveal: float | None = None

    def __post_init__(self) -> None:
        check_reveal(self.reveal)

    @property
    def initial_std(self) -> float:
        return 1.0

    @property
    def guided(self) -> bool:
        return self.cfg != 1.0

    def scale(self, revealed: float) -> float:
        return guidance_scale(self.cfg, self.cfg_schedule, revealed)

    def guided_noise(
        self, head: DenoisingHead, x: Float[Tensor, "N D"], t: Int64[Tensor, "1"], condition: Float[Tensor, "M W"], revealed: float
    ) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N D"]]:
        """Return (guided eps, v): both halves are of the same x; v is the conditional one."""
        if not self.guided:
            eps, v = head.denoise(x.to(condition.dtype), t, condition)
            return eps.float(), v.float()
        eps, v = head.denoise(torch.cat([x, x]).to(condition.dtype), t, condition)
        conditional, unconditional = eps.float().chunk(2)
        return guided(conditional, unconditional, self.scale(revealed)), v.float().chunk(2)[0]


@dataclass(frozen=True)
class Ancestral(Chain):
    """The teacher: a chain with learned variance. temperature scales the noise of each reverse step, not the initial noise.

    last_steps: how many reverse steps the tokens of the last loop get, `steps` being those of the first: what is nearly determined by the
    tokens around it needs fewer (DiSA, arXiv 2505.20297; there by the number of the loop, here by the share of known tokens).
    """

    temperature: float = 1.0
    last_steps: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.last_steps is not None and not 1 <= self.last_steps <= self.steps:
            raise ValueError(f"last_steps must be from 1 to steps ({self.steps}), got {self.last_steps}")

    @property
    def noise_steps(self) -> int:
        return self.steps

    def steps_at(self, revealed: float) -> int:
        """Return the number of reverse steps of a loop after which the share `revealed` of an image's tokens is known."""
        return self.steps if self.last_steps is None else round(self.steps + (self.last_steps - self.steps) * revealed)

    def __call__(
        self, head: DenoisingHead, z: Float[Tensor, "M W"], initial: Float[Tensor, "N D"], steps: Float[Tensor, "S N D"],
        revealed: float,
    ) -> Float[Tensor, "N D"]:  # fmt: skip
        count = self.steps_at(revealed)
        diffusion = cosine_diffusion(count, z.device)
        condition = head.condition(z)
        x = initial
        for noise, index in zip(steps, reversed(range(count))):
            eps, v = self.guided_noise(head, x, diffusion.timesteps[index : index + 1], condition, revealed)
            x = self.reverse_step(x, eps, v, noise, index, diffusion)
        return x

    def reverse_step(
        self, x: Float[Tensor, "N D"], eps: Float[Tensor, "N D"], v: Float[Tensor, "N D"], noise: Float[Tensor, "N D"], index: int,
        diffusion: Diffusion,
    ) -> Float[Tensor, "N D"]:  # fmt: skip
        """Draw x_{i-1} ~ p(. | x_i); the last step (index 0) adds no noise."""
        mean, log_variance = reverse_moments(x, eps, v, diffusion.reverse[index : index + 1], self.clip_x0)
        if index == 0:
            return mean
        return mean + self.temperature * (0.5 * log_variance).exp() * noise


@dataclass(frozen=True)
class DDIM(Chain):
    """A chain without noise (arXiv 2010.02502, equation 12 with sigma = 0): x_s = alpha_s x_0 + sigma_s eps, the eps of the bounded x_0."""

    @property
    def noise_steps(self) -> int:
        return 0

    def __call__(
        self, head: DenoisingHead, z: Float[Tensor, "M W"], initial: Float[Tensor, "N D"], steps: Float[Tensor, "S N D"],
        revealed: float,
    ) -> Float[Tensor, "N D"]:  # fmt: skip
        diffusion = cosine_diffusion(self.steps, z.device)
        condition = head.condition(z)
        x = x_0 = initial
        for index in reversed(range(self.steps)):
            eps, _ = self.guided_noise(head, x, diffusion.timesteps[index : index + 1], condition, revealed)
            coefficients = diffusion.reverse[index : index + 1]
            x_0 = predicted_x_0(x, eps, coefficients, self.clip_x0)
            eps = (coefficients[:, :1] * x - x_0) / coefficients[:, 1:2]
            alpha, sigma = diffusion.forward[index - 1]  # of the next step; after the last one nobody looks at x
            x = alpha * x_0 + sigma * eps
        return x_0
