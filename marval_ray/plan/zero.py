"""What DeepSpeed holds of a network that is trained, under each stage of ZeRO (Rajbhandari et al., arXiv 1910.02054)."""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from marval_ray.config import LearnerConfig
from marval_ray.plan.counting import AsOnGPU, floats

Stage = Literal[0, 1, 2, 3]
BUCKET = 500_000_000
"""Numbers in the bucket through which gradients go from stage 1 on, however small the network: DeepSpeed's reduce_bucket_size."""


@dataclass(frozen=True)
class Held:
    """Numbers of one network on one of N ranks, all float32 as `actors.learning.engine` has them.

    weights: all of them, and in stage 3 this rank's share besides, from which they are gathered. optimiser: Adam's two moments, and from
    stage 1 on the copy of the weights that DeepSpeed updates. bucket: during a backward pass; in stage 3 always.
    """

    weights: int
    gradients: int
    optimiser: int
    bucket: int

    @classmethod
    def of(cls, parameters: int, stage: Stage, ranks: int) -> "Held":
        share = -(-parameters // ranks)
        return cls(
            weights=parameters + (share if stage == 3 else 0),
            gradients=share if stage >= 2 else parameters,
            optimiser=3 * share if stage else 2 * parameters,
            bucket=BUCKET if stage else 0,
        )


class Engine(nn.Module):
    """Stands for a network under DeepSpeed as far as memory goes.

    On a `gpu` Adam works on all weights at once, for which it takes one further number for each that this rank updates.
    """

    module: Any

    def __init__(self, module: nn.Module, config: LearnerConfig, gpu: bool):
        super().__init__()
        self.module, self.stage, self.gpu = module, config.zero_stage, gpu
        self.trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        count = sum(parameter.numel() for parameter in self.trained)
        self.held = Held.of(count, self.stage, config.workers)
        self.states = [floats(self.held.optimiser)]
        if self.stage == 3:
            self.states += [floats(self.held.weights - count), floats(self.held.gradients), floats(self.held.bucket)]
        if self.stage >= 2:
            for parameter in self.trained:
                parameter.register_post_accumulate_grad_hook(forget_gradient)

    def forward(self, *arguments: Any) -> Any:
        with AsOnGPU(self.gpu):  # here, as a backward pass that computes activations anew leaves the modes around it
            return self.module(*arguments)

    def update(self, loss: Tensor, step: int = 0) -> Tensor:
        """Take one optimiser step on `loss`; return what stands for the norm of its gradient."""
        share = floats(self.held.gradients) if self.stage == 2 else None
        bucket = floats(self.held.bucket) if self.stage in (1, 2) else None
        loss.backward()
        del bucket
        adam = floats(self.held.optimiser // (3 if self.stage else 2)) if self.gpu else None
        del share, adam
        for parameter in self.trained:
            forget_gradient(parameter)
        return loss.detach()


def forget_gradient(parameter: Tensor) -> None:
    parameter.grad = None
