"""Continuous batching over AR loops: images that began at different times, with different N_AR, share each call of the model.

An image enters between two loops and leaves after its last one, so nobody waits for a batch to fill or to end. Orders and noise
depend on the image's own seed and index, and images do not see each other, so batch-mates change rounding only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from marval_ray.families.base import Wish
from marval_ray.families.mar.loop import Randomness
from marval_ray.families.mar.masking import hidden_after_loops
from marval_ray.families.mar.model import MAR
from marval_ray.types import Tokens


@dataclass(eq=False)
class MARDrawing:
    """A wish under way. `values` are zero where nothing is drawn yet; the model stays the one that it began with."""

    label: int
    model: MAR
    values: Float[Tensor, "L D"]
    noise: Float[Tensor, "L D"]
    rank: Int64[Tensor, " L"]
    """When each position is revealed: 0 is the first, L - 1 the last."""
    revealed: list[int]
    """How many positions are known before each loop that reveals something, and after the last: 0, ..., L."""
    done: int = 0

    @property
    def finished(self) -> bool:
        return self.done == len(self.revealed) - 1

    @property
    def tokens(self) -> Tokens:
        return Tokens(self.values[None])


def begin(wish: Wish, model: MAR) -> MARDrawing:
    """Draw what is random about it."""
    c, device = model.config, model.device
    assert wish.prompt.labels is not None  # MAR's prompts are classes
    random = Randomness.of(wish.draws, c.num_tokens, c.token_channels, 0)
    noise = wish.temperature * random.initial[0].to(device)
    rank = random.orders[0].flip(0).argsort().to(device)
    hidden = dict.fromkeys([c.num_tokens, *hidden_after_loops(c.num_tokens, wish.loops)])
    revealed = [c.num_tokens - count for count in hidden]
    return MARDrawing(int(wish.prompt.labels), model, torch.zeros_like(noise), noise, rank, revealed)


@torch.inference_mode()
def advance(drawings: Sequence[MARDrawing]) -> None:
    """Run one AR loop of each; all have the same model, none is finished."""
    model = drawings[0].model
    counts = [drawing.revealed[drawing.done : drawing.done + 2] for drawing in drawings]
    before, after = torch.tensor(counts, device=model.device)[:, :, None].unbind(1)
    labels = torch.tensor([drawing.label for drawing in drawings], device=model.device)
    tokens, noise, rank = (torch.stack([getattr(d, name) for d in drawings]) for name in ("values", "noise", "rank"))
    known = rank < before
    predicted = ~known & (rank < after)
    # Ascending positions; images that predict fewer than others get some more, which nobody reads.
    wanted = predicted.byte().argsort(dim=1, descending=True, stable=True)[:, : max(last - first for first, last in counts)]
    z = model.ragged(tokens.to(model.dtype), labels, known, wanted)[predicted.gather(1, wanted)]
    tokens[predicted] = model.one_step.predict(model.head, z, noise[predicted])
    for drawing, drawn in zip(drawings, tokens, strict=True):
        drawing.values, drawing.done = drawn, drawing.done + 1
