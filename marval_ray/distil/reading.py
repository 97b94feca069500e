"""Contexts that a frozen backbone has read once for all networks that share it."""

from dataclasses import dataclass

from jaxtyping import Float, Int64
from torch import Tensor

from marval_ray.families.base import Backbone, Context


@dataclass(frozen=True)
class Read:
    """A context and what the backbone made of its hidden tokens."""

    context: Context
    z: Float[Tensor, "N W"]

    @property
    def hidden(self) -> Int64[Tensor, "B P"]:
        return self.context.hidden


def z_of(backbone: Backbone, context: Context | Read) -> Float[Tensor, "N W"]:
    """Return z of the hidden tokens of a context, row by row: what was read before, where it was."""
    return context.z if isinstance(context, Read) else backbone.conditions(context)
