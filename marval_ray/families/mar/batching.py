"""Continuous batching over AR loops: images that began at different times, with different N_AR, share each call of the model.

An image enters between two loops and leaves after its last one, so nobody waits for a batch to fill or to end. Orders and noise
depend on the image's own seed and index, and images do not see each other, so batch-mates change rounding only.

What is to be read and written in a loop is found on the CPU and copied at once: a GPU would be waited for at each mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
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
    """When each position is revealed: 0 is the first, L - 1 the last. On the CPU."""
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
    random = Randomness.of(wish.draws, c.num_tokens, c.token_channels, 0, model.one_step.tempered(wish.temperature).initial_std)
    noise = random.initial[0].to(device)
    rank = random.orders[0].flip(0).argsort()
    hidden = dict.fromkeys([c.num_tokens, *hidden_after_loops(c.num_tokens, wish.loops, c.student_reveal)])
    revealed = [c.num_tokens - count for count in hidden]
    return MARDrawing(int(wish.prompt.labels), model, torch.zeros_like(noise), noise, rank, revealed)


@torch.inference_mode()
def advance(drawings: Sequence[MARDrawing]) -> None:
    """Run one AR loop of each; all have the same model, none is finished."""
    model = drawings[0].model
    tokens, noise = (torch.stack([getattr(d, name) for d in drawings]) for name in ("values", "noise"))
    labels, seen, wanted, read, written = sent(plan_turn(drawings), model.device)
    z = model.ragged(tokens.to(model.dtype), labels, seen, wanted).flatten(0, 1)[read]
    drawn = model.one_step.predict(model.head, z, noise.flatten(0, 1)[written])
    tokens = tokens.flatten(0, 1).index_copy_(0, written, drawn).view_as(tokens)
    for drawing, values in zip(drawings, tokens, strict=True):
        drawing.values, drawing.done = values, drawing.done + 1


def plan_turn(drawings: Sequence[MARDrawing]) -> tuple[Int64[Tensor, "..."], ...]:
    """Return, on the CPU: labels; places that the encoder sees, of all rows together, class tokens first in each; positions to predict,
    and among them the places of those that are read; places of all tokens together that these are written to."""
    c = drawings[0].model.config
    counts = torch.tensor([drawing.revealed[drawing.done : drawing.done + 2] for drawing in drawings])
    rank = torch.stack([drawing.rank for drawing in drawings])
    known, revealed = (rank < bound[:, None] for bound in counts.unbind(1))
    predicted = revealed & ~known
    # Ascending positions; images that predict fewer than others get some more, which nobody reads.
    wanted = predicted.byte().argsort(dim=1, descending=True, stable=True)[:, : int(counts.diff(dim=1).max())]
    seen = F.pad(known, (c.buffer_size, 0), value=True)
    masks = seen, predicted.gather(1, wanted), predicted
    seen_places, read, written = (mask.flatten().nonzero()[:, 0] for mask in masks)
    return torch.tensor([drawing.label for drawing in drawings]), seen_places, wanted, read, written


def sent(parts: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Copy tensors of one type to the device, in one copy."""
    together = torch.cat([part.flatten() for part in parts]).to(device)
    return [flat.view(part.shape) for flat, part in zip(together.split([part.numel() for part in parts]), parts, strict=True)]
