"""Continuous batching over AR loops: images that began at different times, with different N_AR, share each call of the model.

An image enters between two loops and leaves after its last one, so nobody waits for a batch to fill or to end. Orders and noise
depend on the image's own seed and index, and images do not see each other, so batch-mates change rounding only.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from marval_ray.diffusion.samplers import OneStep
from marval_ray.families.mar.loop import Draws
from marval_ray.families.mar.masking import hidden_after_loops
from marval_ray.families.mar.model import MAR


@dataclass(frozen=True)
class Wish:
    """One image of a student. temperature: factor of its noise, 1 as in training."""

    label: int
    seed: int
    index: int = 0
    loops: int = 64
    temperature: float = 1.0


@dataclass(eq=False)
class Drawing:
    """A wish under way. `tokens` are zero where nothing is drawn yet; the model stays the one that it began with."""

    wish: Wish
    model: MAR
    tokens: Float[Tensor, "L D"]
    noise: Float[Tensor, "L D"]
    rank: Int64[Tensor, " L"]
    """When each position is revealed: 0 is the first, L - 1 the last."""
    revealed: list[int]
    """How many positions are known before each loop that reveals something, and after the last: 0, ..., L."""
    done: int = 0

    @property
    def finished(self) -> bool:
        return self.done == len(self.revealed) - 1


def begin(wish: Wish, model: MAR) -> Drawing:
    c, device = model.config, model.mask_token.device
    draws = Draws.from_seed(wish.seed, [wish.index], c.num_tokens, c.token_channels, 0)
    noise = wish.temperature * draws.initial[0].to(device)
    rank = draws.orders[0].flip(0).argsort().to(device)
    hidden = dict.fromkeys([c.num_tokens, *hidden_after_loops(c.num_tokens, wish.loops)])
    return Drawing(wish, model, torch.zeros_like(noise), noise, rank, [c.num_tokens - count for count in hidden])


@torch.inference_mode()
def advance(drawings: list[Drawing]) -> None:
    """One AR loop of each; all have the same model, none is finished."""
    model = drawings[0].model
    device, dtype = model.mask_token.device, model.mask_token.dtype
    counts = [drawing.revealed[drawing.done : drawing.done + 2] for drawing in drawings]
    before, after = torch.tensor(counts, device=device)[:, :, None].unbind(1)
    labels = torch.tensor([drawing.wish.label for drawing in drawings], device=device)
    tokens, noise, rank = (torch.stack([getattr(d, name) for d in drawings]) for name in ("tokens", "noise", "rank"))
    known = rank < before
    predicted = ~known & (rank < after)
    # Ascending positions; images that predict fewer than others get some more, which nobody reads.
    wanted = predicted.byte().argsort(dim=1, descending=True, stable=True)[:, : max(last - first for first, last in counts)]
    z = model.ragged(tokens.to(dtype), labels, known, wanted)[predicted.gather(1, wanted)]
    one_step = OneStep(model.config.student_timestep)
    tokens[predicted] = one_step(model.head, z, noise[predicted], noise[:0], 1.0)
    for drawing, drawn in zip(drawings, tokens, strict=True):
        drawing.tokens, drawing.done = drawn, drawing.done + 1
