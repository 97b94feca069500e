"""The average of a student's weights over its updates."""

import torch

from marval_ray.files.tensors import StateDict


class EMA:
    """Exponential moving average of parameters, in float32, with the decay min(decay, (1 + n) / (1 + c + n)) in update n.

    c, the warm start, keeps the first weights from holding a run back: the average goes back over a c-th of the updates so
    far, until that is as far as `decay` goes. 1 is the mean of all weights, the first ones twice; 0 has `decay` from the start.
    """

    def __init__(self, parameters: StateDict, decay: float, warm_start: int = 9):
        self.decay, self.warm_start = decay, warm_start
        self.updates = 0
        self.shadow = {name: value.detach().float().clone() for name, value in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: StateDict) -> None:
        self.updates += 1
        decay = self.decay_at(self.updates)
        shadow = list(self.shadow.values())
        live = [parameters[name].detach().float() for name in self.shadow]
        torch._foreach_lerp_(shadow, live, 1 - decay)

    def decay_at(self, update: int) -> float:
        """Return the decay in update number `update`, from 1. `decay` is reached at c decay / (1 - decay) - 1."""
        return min(self.decay, (1 + update) / (1 + self.warm_start + update))

    @staticmethod
    def warm_start_of(steps: int, decay: float) -> int:
        """Return c for a run of `steps` updates: 9, or 1 where the run is so long that `decay` alone would leave its first weights
        less than a thousandth of the average. 9 would keep `decay` from such a run for most of it, or to its end."""
        return 9 if decay**steps > 1e-3 else 1

    def state_dict(self) -> dict[str, object]:
        return {"updates": self.updates, "shadow": self.shadow}

    def load_state_dict(self, state: dict) -> None:
        self.updates = state["updates"]
        for name, value in state["shadow"].items():
            self.shadow[name].copy_(value)
