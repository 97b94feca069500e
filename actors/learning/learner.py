"""What every learner has: a student under DeepSpeed, its average, a count of bad updates, checkpoints.

One rank's part; works in any torch process group.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deepspeed
import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor

from actors.learning.engine import make_engine, update, whole_parameters
from marval_ray.average import EMA
from marval_ray.config import LearnerConfig
from marval_ray.distil.student import Denoiser, Student
from marval_ray.families.base import Backbone
from marval_ray.files.atomic import atomic_path, write_json

AVERAGE = "ema.safetensors"
"""In each checkpoint: the averaged student."""


class NonFiniteError(Exception):
    """Too many updates in a row had a loss or gradient that is not finite."""


class Learner(ABC):
    """State of one rank. Subclasses add `step`; all their draws derive from (seed, step, rank).

    options: what its settings are called on the command line. done: set by a subclass that wants no further update.
    pictures: those of the student after so many updates that a subclass has to show; whoever shows them takes them away.
    stopping: asked by those that wait for others whether to give up.
    """

    options = "learner"

    def __init__(
        self, student: Backbone, config: LearnerConfig, seed: int, device: torch.device, warm_start: bool = True,
        module: type[Student] | type[Denoiser] = Student,
    ):  # fmt: skip
        """Make engine and average. warm_start: of the average, see EMA. module: what the engine runs of the backbone."""
        self.config, self.seed, self.device = config, seed, device
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.student = make_engine(module(student), config, config.lr, device)
        with whole_parameters(self.student, self.student.module.backbone) as parameters:
            start = EMA.warm_start_of(config.steps, config.ema) if warm_start else 0
            self.ema = EMA(parameters, config.ema, start) if self.rank == 0 else None
        self.bad_steps = self.skipped = 0
        self.done = False
        self.pictures: dict[int, UInt8[np.ndarray, "P H W C"]] = {}
        self.lr_scale = 1.0
        self.stopping: Callable[[], object] = lambda: False

    def begin(self, step: int) -> None:  # noqa: B027  (a hook)
        """Prepare, once, for update number `step`, the first one of this process."""

    @abstractmethod
    def step(self, step: int) -> dict[str, Tensor]:
        """Run update number `step`; return metrics as scalars. Raises CalledOff, with nothing changed, when it gave up waiting."""

    def end(self, step: int) -> dict[str, Tensor]:
        """Do what is due after the last update, of `step` in all; return metrics."""
        return {}

    @property
    def engines(self) -> dict[str, deepspeed.DeepSpeedEngine]:
        """Everything that a checkpoint holds besides the average, by name."""
        return {"student": self.student}

    def update_student(self, loss: Tensor, step: int) -> dict[str, Tensor]:
        """Take one optimiser step and one of the average; return metrics."""
        norm = update(self.student, loss, self.config.lr * self.lr_scale * self.config.lr_factor(step))
        with whole_parameters(self.student, self.student.module.backbone) as parameters:
            if self.ema is not None:
                self.ema.update(parameters)
        return {"student/gradient_norm": norm}

    def all_finite(self, *values: Tensor) -> bool:
        """Tell whether all values are finite on every rank."""
        finite = torch.stack([value.detach().isfinite().all() for value in values]).all().float()
        dist.all_reduce(finite, dist.ReduceOp.MIN)
        return bool(finite)

    def count(self, step: int, bad: list[str]) -> None:
        """Count updates that were not finite. Raises NonFiniteError after `max_bad_steps` in a row."""
        self.skipped += bool(bad)
        self.bad_steps = self.bad_steps + 1 if bad else 0
        if self.bad_steps >= self.config.max_bad_steps:
            raise NonFiniteError(
                f"{self.bad_steps} updates in a row were not finite (last: {', '.join(bad)} at update {step}); "
                f"lower {self.options}.lr and {self.options}.auxiliary_lr, or check the data's scale"
            )

    def save(self, folder: Path, step: int) -> None:
        """Write everything that update `step` (the next one) depends on. Every rank calls this."""
        for name, engine in self.engines.items():
            engine.save_checkpoint(str(folder), tag=name)
        if self.ema is not None:
            with atomic_path(folder / AVERAGE) as temporary:
                save_file(self.ema.shadow, temporary)
            progress = {"step": step, "ema_updates": self.ema.updates, **self.extra_state()}
            write_json(folder / "progress.json", progress)

    def load(self, folder: Path) -> int:
        """Restore what `save` wrote and return the next update's number. Every rank calls this."""
        for name, engine in self.engines.items():
            engine.load_checkpoint(str(folder), tag=name)
        progress = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
        if self.ema is not None:
            self.ema.load_state_dict({"updates": progress["ema_updates"], "shadow": load_file(folder / AVERAGE)})
        self.load_extra_state(progress)
        return progress["step"]

    def extra_state(self) -> dict[str, Any]:
        """Return what a subclass wants in progress.json (rank 0)."""
        return {}

    def load_extra_state(self, progress: dict[str, Any]) -> None:  # noqa: B027  (a hook)
        """Take back what `extra_state` gave (every rank)."""
