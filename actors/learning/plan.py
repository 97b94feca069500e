"""What an RL stage is to do, as jobs hand it to actors."""

from dataclasses import dataclass
from pathlib import Path

import torch

from actors.learning.gsim import Matching
from marval_ray.adapters import adapted_layers
from marval_ray.config import GuardConfig, LearnerConfig, RLConfig
from marval_ray.families.base import FamilyConfig
from marval_ray.reinforce.objective import check_groups, check_objective, freeze
from marval_ray.types import Prompts


@dataclass(frozen=True)
class Plan:
    """An RL stage. `judge` is a classifier and reference statistics, or None without held-out figures."""

    model: FamilyConfig
    rl: RLConfig
    guard: GuardConfig
    learner: LearnerConfig
    student: Path
    matching: Matching
    """Where the GSIM loss comes from when it has a weight, and the text encoder of a model that reads texts."""
    codec: Path
    prompts: Prompts
    """All that images are drawn for: of models of classes, one of each class."""
    judge: tuple[Path, Path] | None
    measured: int = 500
    """Images on which the reward is measured before and after."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_objective(self.model, self.rl)
        check_groups(self.rl, self.learner.batch)
        if self.rl.lora_rank:
            self._check_adapters()

    def _check_adapters(self) -> None:
        """Raise ValueError when no layer is large enough for adapters of this rank, or the guard would set whole weights anew."""
        if self.guard.action == "roll_back":
            raise ValueError("guard.action roll_back sets all weights, which rl.lora_rank leaves alone: use guard.action stop")
        with torch.device("meta"):
            student = self.model.family.build(self.model)
        freeze(student, self.rl)
        adapted_layers(student, self.rl.lora_rank)
