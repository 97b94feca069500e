"""Drawing where the GPUs are: the head of a cluster, where a job's driver runs, has none."""

from dataclasses import dataclass, fields, replace

import ray
import torch
from torch import Tensor

from actors.rollout import own_device
from marval_ray.generate import Generation


@dataclass(frozen=True)
class Elsewhere(Generation):
    """Draws its images in a Ray task that has a GPU, or a share of one."""

    gpus: float = 1.0

    @classmethod
    def of(cls, generation: Generation, gpus: float) -> "Elsewhere":
        return cls(**{field.name: getattr(generation, field.name) for field in fields(generation)}, gpus=gpus)

    def images(self, labels: Tensor, seed: int, progress: str | None = None) -> Tensor:
        """As Generation.images; the bar is the task's."""
        here = Generation(**{field.name: getattr(self, field.name) for field in fields(Generation)})
        drawn: Tensor = ray.get(draw.options(num_gpus=self.gpus).remote(here, labels, seed, progress))
        return drawn


@ray.remote
def draw(generation: Generation, labels: Tensor, seed: int, progress: str | None) -> Tensor:
    device = own_device(1)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    moved = replace(generation, model=generation.model.to(device, dtype), vae=generation.vae.to(device))
    return moved.images(labels, seed, progress)
