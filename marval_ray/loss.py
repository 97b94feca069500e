"""What every loss returns."""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Loss:
    """`value` is the scalar to differentiate; `metrics` are detached scalars to log. Losses add up and scale by a weight."""

    value: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)

    def __add__(self, other: "Loss") -> "Loss":
        return Loss(self.value + other.value, self.metrics | other.metrics)

    def __rmul__(self, weight: float) -> "Loss":
        """Weigh the value; metrics stay as they are."""
        return Loss(weight * self.value, self.metrics)

    def named(self, name: str) -> "Loss":
        """Put `name/` in front of its metrics."""
        return Loss(self.value, {f"{name}/{key}": value for key, value in self.metrics.items()})
