"""Codes that DC-AR's loops drew, as actions of a policy.

A code that stays is one draw of softmax(logits / temperature), since the largest of logits + temperature x Gumbel noise is. That a draw
was kept because its logit was large is left out of its likelihood, as policy gradients of masked generators do.

Shape suffixes: B images, L tokens an image, N codes that stay, V codes in all.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from marval_ray.families.dcar.context import TextStates
from marval_ray.families.dcar.loop import code_temperature, sharpened_logits
from marval_ray.families.dcar.model import DCAR
from marval_ray.types import Tokens


@dataclass(frozen=True)
class CodeChoices:
    """What stayed of one loop's draws.

    given: all codes, with the mask's own in the places that were still hidden. text: of the prompts. places: N positions in B x L.
    done: the share of loops, with this one.
    """

    given: Int64[Tensor, "B L"]
    text: TextStates
    places: Int64[Tensor, " N"]
    codes: Int64[Tensor, " N"]
    images: Int64[Tensor, " N"]
    done: float

    def log_probs(self, backbone: DCAR) -> Float[Tensor, "N V"]:
        """Return log pi of all codes in the places of those that stayed."""
        latents = backbone(self.given.repeat(2, 1), self.text.followed_by(backbone.without_text(self.text)))
        kept = torch.cat([half.flatten(0, 1)[self.places] for half in latents.chunk(2)])  # logits of all places are large
        return (sharpened_logits(backbone, kept, self.done) / code_temperature(backbone.config, self.done)).log_softmax(-1)


def code_choices(tokens: Tokens, mask_code: int, text: TextStates, loops: int) -> Iterator[CodeChoices]:
    """Yield what stayed of each loop's draws. The last loop takes the likeliest codes: it has nothing to choose."""
    assert tokens.codes is not None and tokens.revealed is not None  # DC-AR's rollouts have both
    for loop in range(loops - 1):
        stayed: Bool[Tensor, "B L"] = tokens.revealed == loop
        places = stayed.flatten().nonzero()[:, 0]
        if len(places):
            given = tokens.codes.masked_fill(tokens.revealed >= loop, mask_code)
            codes, images = tokens.codes.flatten()[places], places // stayed.shape[1]
            yield CodeChoices(given, text, places, codes, images, (loop + 1) / loops)
