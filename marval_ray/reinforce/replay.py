"""The last loops of a recorded rollout, drawn again with gradient.

Tokens are never changed once they are drawn, so the recorded image holds the state before every loop.

Shape suffixes: B images, L tokens an image, P tokens hidden in a loop, N = B P, D token channels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from marval_ray.families.base import Predict, RecordedLoop
from marval_ray.positions import scatter_tokens


@dataclass(frozen=True)
class ReplayedLoop:
    """A recorded loop, the context in which it was drawn again, and the prediction of its hidden tokens."""

    recorded: RecordedLoop
    context: Any
    prediction: Float[Tensor, "N D"]


def replay_chain(
    student: Predict, values: Float[Tensor, "B L D"], loops: Sequence[RecordedLoop], recompute: bool = True
) -> tuple[Float[Tensor, "B L D"], list[ReplayedLoop]]:
    """Return (whole images, loops): each loop sees what this replay predicted before it, with its gradient.

    `values` are the recorded tokens; those of earlier loops stay. With `recompute` the activations of one loop at a time are
    in memory.
    """
    replayed = []
    for loop in loops:
        context = loop.context.with_values(values)
        prediction = checkpoint(student, context, loop.noise, use_reentrant=False) if recompute else student(context, loop.noise)
        values = scatter_tokens(values, context.hidden, prediction.unflatten(0, context.hidden.shape))
        replayed.append(ReplayedLoop(loop, context, prediction))
    return values, replayed


def replay_apart(student: Predict, loops: Sequence[RecordedLoop]) -> Iterator[ReplayedLoop]:
    """Yield each loop, drawn from the recorded tokens before it: no gradient flows from one to another."""
    for loop in loops:
        yield ReplayedLoop(loop, loop.context, student(loop.context, loop.noise))
