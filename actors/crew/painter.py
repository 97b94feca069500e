"""Drawing where the GPUs are: the head of a cluster, where a job's driver runs, has none."""

from dataclasses import dataclass

import ray
from torch import Tensor

from marval_ray.device import worker_device
from marval_ray.families.generation import Generation
from marval_ray.types import Prompts


@dataclass(frozen=True)
class RemotePainter:
    """A painter whose images are drawn in a Ray task that has a GPU, or a share of one."""

    generation: Generation
    gpus: float = 1.0

    @property
    def loops(self) -> int:
        return self.generation.loops

    @property
    def batch(self) -> int:
        return self.generation.batch

    def with_loops(self, loops: int) -> "RemotePainter":
        return RemotePainter(self.generation.with_loops(loops), self.gpus)

    def images(self, prompts: Prompts, seed: int, progress: str | None = None) -> Tensor:
        """Draw as Generation.images does; the bar is the task's."""
        drawn: Tensor = ray.get(draw.options(num_gpus=self.gpus).remote(self.generation, prompts, seed, progress))
        return drawn


@ray.remote
def draw(generation: Generation, prompts: Prompts, seed: int, progress: str | None) -> Tensor:
    """Draw on the GPU that Ray gave this task, in bfloat16, or on its CPU."""
    return generation.on(worker_device(1)).images(prompts, seed, progress)
