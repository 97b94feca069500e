"""The last loops of a recorded rollout, drawn again with gradient.

Tokens are never changed once they are drawn, so the recorded image holds the state before every loop.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from marval_ray.families.mar.loop import Draws, Loop, plan_loops
from marval_ray.families.mar.model import gather_tokens, scatter_tokens
from marval_ray.types import Context, Rollout

Predict = Callable[[Context, Tensor], Tensor]
"""G(n, c): the one-step prediction of the hidden tokens of a context, row by row, as `Student.forward` gives it."""


@dataclass(frozen=True)
class ReplayedLoop:
    """One loop: what was known, the noise n of the tokens to predict, and the prediction."""

    loop: Loop
    context: Context
    noise: Float[Tensor, "N D"]
    prediction: Float[Tensor, "N D"]


def last_loops(draws: Draws, loops: int, last: int) -> list[Loop]:
    """The last `last` of the loops that reveal something; all of them if there are fewer."""
    return list(plan_loops(draws.orders, loops))[-last:]


def replay_chain(
    student: Predict, rollout: Rollout, draws: Draws, loops: int, last: int, recompute: bool = True
) -> tuple[Float[Tensor, "B L D"], list[ReplayedLoop]]:
    """(whole images, loops): each loop sees the tokens that this replay predicted before it, with their gradient.

    Earlier tokens are the recorded ones. With `recompute` the activations of one loop at a time are in memory.
    """
    plan = last_loops(draws, loops, last)
    tokens = known_tokens(rollout.tokens, plan[0])
    replayed = []
    for loop in plan:
        context = Context(tokens, rollout.labels, loop.known, loop.predicted)
        noise = gather_tokens(draws.initial, loop.predicted).flatten(0, 1)
        prediction = checkpoint(student, context, noise, use_reentrant=False) if recompute else student(context, noise)
        tokens = scatter_tokens(tokens, loop.predicted, prediction.unflatten(0, loop.predicted.shape))
        replayed.append(ReplayedLoop(loop, context, noise, prediction))
    return tokens, replayed


def replay_apart(student: Predict, rollout: Rollout, draws: Draws, loops: int, last: int) -> Iterator[ReplayedLoop]:
    """Each loop from the recorded tokens before it: no gradient flows from one loop to another."""
    for loop in last_loops(draws, loops, last):
        context = Context(known_tokens(rollout.tokens, loop), rollout.labels, loop.known, loop.predicted)
        noise = gather_tokens(draws.initial, loop.predicted).flatten(0, 1)
        yield ReplayedLoop(loop, context, noise, student(context, noise))


def known_tokens(tokens: Float[Tensor, "B L D"], loop: Loop) -> Float[Tensor, "B L D"]:
    """The tokens that are known before `loop`; the others are zero."""
    return scatter_tokens(torch.zeros_like(tokens), loop.known, gather_tokens(tokens, loop.known))
