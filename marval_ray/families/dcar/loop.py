"""The loops of DC-AR: codes as MaskGIT draws them (arXiv 2202.04200), under guidance and with Gumbel noise, then all residuals at once.

In each loop every hidden code is drawn; those of the least confidence are hidden again. The residuals follow from the states of the last
loop, in which the codes that it reveals were still hidden.

Shape suffixes: B images, L tokens an image, V codes, D token channels, W width, S diffusion steps.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from marval_ray.diffusion.samplers import TokenSampler, guided
from marval_ray.draws import Draws
from marval_ray.families.base import RecordedLoop
from marval_ray.families.dcar.config import DCARConfig
from marval_ray.families.dcar.context import DCARContext, TextStates
from marval_ray.families.dcar.masking import hidden_after_loops
from marval_ray.families.dcar.model import DCAR
from marval_ray.types import Tokens

TINY = 1e-20


@runtime_checkable
class Randomness(Protocol):
    """All that is drawn for a batch of images, when it is asked for: that of the codes is 17 MB an image and loop."""

    def codes(self, loop: int) -> Float[Tensor, "B L V"]:
        """Return U(0, 1), by which a loop's codes are chosen."""

    def confidences(self, loop: int) -> Float[Tensor, "B L"]:
        """Return U(0, 1), by which those are chosen that are hidden again."""

    def initial(self) -> Float[Tensor, "B L D"]:
        """Return N(0, 1): the x_T of the teacher's chain or the n of the student."""

    def steps(self) -> Float[Tensor, "S B L D"]:
        """Return N(0, 1), the noise of each reverse step, in the order in which steps are taken."""


@dataclass(frozen=True)
class Drawn:
    """`Randomness` of draws; all but the noise of steps is that of the starts. noise_steps: S."""

    draws: Draws
    config: DCARConfig
    noise_steps: int
    device: torch.device

    def codes(self, loop: int) -> Float[Tensor, "B L V"]:
        return self.draws.starts.uniform("codes", loop, (self.config.num_tokens, self.config.num_codes)).to(self.device)

    def confidences(self, loop: int) -> Float[Tensor, "B L"]:
        return self.draws.starts.uniform("confidences", loop, (self.config.num_tokens,)).to(self.device)

    def initial(self) -> Float[Tensor, "B L D"]:
        return self._noise(self.draws.starts, 0)

    def steps(self) -> Float[Tensor, "S B L D"]:
        shape = (0, len(self.draws), self.config.num_tokens, self.config.token_channels)
        noises = [self._noise(self.draws, 1 + step) for step in range(self.noise_steps)]
        return torch.stack(noises) if noises else torch.empty(shape, device=self.device)

    def _noise(self, draws: Draws, step: int) -> Float[Tensor, "B L D"]:
        return draws.noise("residual", step, (self.config.num_tokens, self.config.token_channels)).to(self.device)


def perturbed(x: Float[Tensor, "..."], temperature: float, uniform: Callable[[], Float[Tensor, "..."]]) -> Float[Tensor, "..."]:
    """Return x + temperature G with Gumbel noise G = -log(-log u), which is drawn when it is needed."""
    if not temperature:
        return x
    return x - temperature * (-uniform().clamp(min=TINY).log()).clamp(min=TINY).log()


def sharpened_logits(model: DCAR, latents: Float[Tensor, "BB L W"], done: float) -> Float[Tensor, "B L V"]:
    """Return guided logits, the sharper the nearer the end: latents are those with the text, then those without.

    done: the share of loops, with this one.
    """
    conditional, unconditional = model.logits(latents).float().chunk(2)
    return guided(conditional, unconditional, model.config.code_guidance) / (0.5 + 0.8 * (1 - done))


def least_confident(confidences: Float[Tensor, "B L"], count: int) -> Bool[Tensor, "B L"]:
    """Tell which are the `count` lowest of each image; ties count."""
    if not count:
        return torch.zeros_like(confidences, dtype=torch.bool)
    return confidences <= confidences.kthvalue(count, dim=1, keepdim=True).values


def sample_loops(model: DCAR, sampler: TokenSampler, text: TextStates, random: Randomness, loops: int) -> Iterator[Tokens]:
    """Yield the tokens after each loop; hidden codes are 0, and values are 0 before the last loop."""
    c, batch = model.config, len(text.states)
    text = text.followed_by(model.without_text(text))
    revealed = torch.full((batch, c.num_tokens), -1, device=text.states.device)
    codes = torch.zeros_like(revealed)
    values = torch.zeros(batch, c.num_tokens, c.token_channels, device=text.states.device)
    for loop, count in enumerate(hidden_after_loops(c.num_tokens, loops)):
        hidden, done = revealed < 0, (loop + 1) / loops
        latents = model(codes.masked_fill(hidden, c.mask_code).repeat(2, 1), text)
        logits, temperature = sharpened_logits(model, latents, done), c.code_temperature * (1 - done)
        codes, again = draw_codes(logits, codes, hidden, count, temperature, random, loop)
        codes, revealed = codes.masked_fill(again, 0), revealed.masked_fill(hidden & ~again, loop)
        if not count:
            values = draw_values(model, sampler, latents if sampler.guided else latents[:batch], random)
        yield Tokens(values, codes, revealed)


def draw_codes(
    logits: Float[Tensor, "B L V"], codes: Int64[Tensor, "B L"], hidden: Bool[Tensor, "B L"], count: int, temperature: float,
    random: Randomness, loop: int,
) -> tuple[Int64[Tensor, "B L"], Bool[Tensor, "B L"]]:  # fmt: skip
    """Return codes with all hidden ones drawn, and which `count` of those are hidden again: by their logit, not by a probability."""
    drawn = perturbed(logits, temperature, lambda: random.codes(loop)).argmax(-1)
    codes = torch.where(hidden, drawn, codes)
    confidences = perturbed(logits.gather(-1, codes[..., None])[..., 0], temperature, lambda: random.confidences(loop))
    return codes, least_confident(confidences.masked_fill(~hidden, torch.inf), count)


def draw_values(model: DCAR, sampler: TokenSampler, latents: Float[Tensor, "_ L W"], random: Randomness) -> Float[Tensor, "B L D"]:
    """Draw the residuals of all tokens, divided by the model's scale."""
    initial, steps = random.initial(), random.steps()
    values = sampler(model.head, latents.flatten(0, 1), initial.flatten(0, 1), steps.flatten(1, 2), revealed=1.0)
    return values.unflatten(0, initial.shape[:2])


def recorded_loops(tokens: Tokens, text: TextStates, random: Randomness, config: DCARConfig, loops: int) -> Iterator[RecordedLoop]:
    """Yield the one loop that drew values, the last: its codes were hidden that came in it."""
    assert tokens.codes is not None and tokens.revealed is not None  # DC-AR's rollouts have both
    codes = tokens.codes.masked_fill(tokens.revealed == loops - 1, config.mask_code)
    parts = (random.initial(), tokens.values, *random.steps()[:1])
    yield RecordedLoop(DCARContext.of(codes, text, tokens.values), *(part.flatten(0, 1) for part in parts))
