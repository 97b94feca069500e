"""The loops of DC-AR: codes as MaskGIT draws them (arXiv 2202.04200), under guidance and with Gumbel noise, then all residuals at once.

In each loop every hidden code is drawn; those of the least confidence are hidden again. The residuals follow from the states of the last
loop, in which the codes that it reveals were still hidden.

Shape suffixes: B images, L tokens an image, V codes, D token channels, W width, S diffusion steps.
"""

from collections.abc import Iterator

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


def sample_loops(model: DCAR, sampler: TokenSampler, text: TextStates, draws: Draws, loops: int) -> Iterator[Tokens]:
    """Yield the tokens after each loop; hidden codes are 0, and values are 0 before the last loop."""
    c, batch = model.config, len(text.states)
    text = text.followed_by(model.without_text(text))
    revealed = torch.full((batch, c.num_tokens), -1, device=text.states.device)
    codes = torch.zeros_like(revealed)
    values = torch.zeros(batch, c.num_tokens, c.token_channels, device=text.states.device)
    for loop, count in enumerate(hidden_after_loops(c.num_tokens, loops)):
        hidden, done = revealed < 0, (loop + 1) / loops
        latents = model(codes.masked_fill(hidden, c.mask_code).repeat(2, 1), text)
        logits = sharpened_logits(model, latents, done)
        codes, again = draw_codes(logits, codes, hidden, count, code_temperature(c, done), draws, loop)
        codes, revealed = codes.masked_fill(again, 0), revealed.masked_fill(hidden & ~again, loop)
        if not count:
            initial, steps = residual_noise(draws, sampler, values)
            z = latents if sampler.guided else latents[:batch]
            drawn = sampler(model.head, z.flatten(0, 1), initial.flatten(0, 1), steps.flatten(1, 2), revealed=1.0)
            values = drawn.unflatten(0, codes.shape)
        yield Tokens(values, codes, revealed)


def sharpened_logits(model: DCAR, latents: Float[Tensor, "BB *L W"], done: float) -> Float[Tensor, "B *L V"]:
    """Return guided logits, the sharper the nearer the end: latents are those with the text, then those without.

    done: the share of loops, with this one.
    """
    conditional, unconditional = model.logits(latents).float().chunk(2)
    return guided(conditional, unconditional, model.config.code_guidance) / (0.5 + 0.8 * (1 - done))


def code_temperature(config: DCARConfig, done: float) -> float:
    """Return that of the Gumbel noise of codes, which falls to 0 in the last loop. done: as of `sharpened_logits`."""
    return config.code_temperature * (1 - done)


def draw_codes(
    logits: Float[Tensor, "B L V"], codes: Int64[Tensor, "B L"], hidden: Bool[Tensor, "B L"], count: int, temperature: float,
    draws: Draws, loop: int,
) -> tuple[Int64[Tensor, "B L"], Bool[Tensor, "B L"]]:  # fmt: skip
    """Return codes with all hidden ones drawn, and which `count` of those are hidden again: by their logit, not by a probability."""
    drawn = perturbed(logits, temperature, draws, "codes", loop).argmax(-1)
    codes = torch.where(hidden, drawn, codes)
    confidences = perturbed(logits.gather(-1, codes[..., None])[..., 0], temperature, draws, "confidences", loop)
    return codes, least_confident(confidences.masked_fill(~hidden, torch.inf), count)


def perturbed(x: Float[Tensor, "B *shape"], temperature: float, draws: Draws, purpose: str, loop: int) -> Float[Tensor, "B *shape"]:
    """Return x + temperature G with Gumbel noise G = -log(-log u), u ~ U[0, 1), which is drawn when it is needed: an image of dc-ar-512
    takes 17 MB a loop.
    """
    if not temperature:
        return x
    u = draws.starts.uniform(purpose, loop, tuple(x.shape[1:])).to(x.device)
    return x - temperature * (-u.clamp(min=TINY).log()).clamp(min=TINY).log()


def least_confident(confidences: Float[Tensor, "B L"], count: int) -> Bool[Tensor, "B L"]:
    """Tell which are the `count` lowest of each image; what is equal to the last of them counts too."""
    if not count:
        return torch.zeros_like(confidences, dtype=torch.bool)
    return confidences <= confidences.kthvalue(count, dim=1, keepdim=True).values


def residual_noise(
    draws: Draws, sampler: TokenSampler, values: Float[Tensor, "B L D"]
) -> tuple[Float[Tensor, "B L D"], Float[Tensor, "S B L D"]]:
    """Return noise like `values`: the initial one, of the deviation that the sampler wants, and N(0, 1) for each reverse step."""
    shape = tuple(values.shape[1:])
    noises = [draws.noise("residual", 1 + step, shape).to(values.device) for step in range(sampler.noise_steps)]
    initial = draws.starts.noise("residual", 0, shape).to(values.device)
    return sampler.initial_std * initial, torch.stack(noises) if noises else values.new_empty(0, *values.shape)


def recorded_loops(tokens: Tokens, text: TextStates, draws: Draws, sampler: TokenSampler, loops: int) -> Iterator[RecordedLoop]:
    """Yield the one loop that drew values, the last: the codes that came in it were hidden."""
    assert tokens.codes is not None and tokens.revealed is not None  # DC-AR's rollouts have both
    context = DCARContext.of(tokens.codes, tokens.revealed == loops - 1, text, tokens.values)
    initial, noises = residual_noise(draws, sampler, tokens.values)
    yield RecordedLoop(context, *(part.flatten(0, 1) for part in (initial, tokens.values, *noises[:1])))
