"""Drawing where the GPUs are: the head of a cluster, where a job's driver runs, has none."""

from dataclasses import dataclass, replace

import ray
import torch
from torch import Tensor

from actors.crew.rollout import own_device
from marval_ray.families.generate import Generation


@dataclass(frozen=True)
class Elsewhere(Generation):
    """Draws its images in a Ray task that has a GPU, or a share of one."""

    gpus: float = 1.0

    @classmethod
    def of(cls, generation: Generation, gpus: float) -> "Elsewhere":
        return cls(**vars(generation), gpus=gpus)

    def images(self, labels: Tensor, seed: int, progress: str | None = None) -> Tensor:
        """As Generation.images; the bar is the task's."""
        drawn: Tensor = ray.get(draw.options(num_gpus=self.gpus).remote(self, labels, seed, progress))
        return drawn


@ray.remote
def draw(generation: Generation, labels: Tensor, seed: int, progress: str | None) -> Tensor:
    device = own_device(1)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    moved = replace(generation, model=generation.model.to(device, dtype), vae=generation.vae.to(device))
    return Generation.images(moved, labels, seed, progress)  # here, not elsewhere again
