"""The memory of one actor."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Need:
    """Bytes. weights: of all networks, the average too. working: activations, gradients and buffers, at the worst moment."""

    weights: int
    optimiser: int
    working: int

    @property
    def total(self) -> int:
        return self.weights + self.optimiser + self.working
