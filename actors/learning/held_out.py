"""The guard of a run: asks the judge for held-out figures, and keeps the best student."""

import json
from pathlib import Path
from typing import Any

import ray
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from actors.crew.judge import Look
from actors.patience import Patience
from marval_ray.config import GuardConfig
from marval_ray.files.atomic import atomic_path, write_json
from marval_ray.files.flat import pack
from marval_ray.reinforce.guard import Guard

STATE, BEST = "guard.json", "best.safetensors"


class Watch:
    """Lives on the learner's rank 0. `best` are the weights of the best student so far, by name."""

    def __init__(self, config: GuardConfig, judge: Any, patience: Patience):
        self.config, self.judge, self.patience = config, judge, patience
        self.guard: Guard | None = None
        self.best: dict[str, Tensor] = {}

    def begin(self, student: dict[str, Tensor]) -> Look | None:
        """Look at the student before RL, unless `load` brought that along. Raises what `Patience.results` raises."""
        if self.guard is not None:
            return None
        look = self._look(student)
        self.guard, self.best = Guard(self.config, look.scores), student
        return look

    def ask(self, step: int, student: dict[str, Tensor]) -> tuple[Look, bool]:
        """Return what is held out of the student after `step` updates, and whether it is time to stop or go back."""
        assert self.guard is not None  # begin came first
        look = self._look(student)
        if self.guard.take(step, look.scores):
            self.best = student
        exhausted = self.guard.exhausted
        if exhausted:
            self.guard.outside = 0  # patience starts anew from the best student
        return look, exhausted

    def save(self, folder: Path) -> None:
        assert self.guard is not None
        write_json(folder / STATE, self.guard.state())
        with atomic_path(folder / BEST) as temporary:
            save_file(self.best, temporary)

    def load(self, folder: Path) -> None:
        self.guard = Guard.of(self.config, json.loads((folder / STATE).read_text(encoding="utf-8")))
        self.best = load_file(folder / BEST)

    def _look(self, student: dict[str, Tensor]) -> Look:
        reference = self.judge.measure.remote(ray.put(pack(student, 0, torch.float32)))
        (look,) = self.patience.results([reference], lambda _: {"judge-0": self.judge})
        return look
