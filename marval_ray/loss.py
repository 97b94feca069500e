"""What every loss returns."""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Loss:
    """`value` is the scalar to differentiate; `metrics` are detached scalars to log."""

    value: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)
