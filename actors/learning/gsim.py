"""The GSIM learner: teacher, student and auxiliary network of one rank."""

from dataclasses import dataclass
from pathlib import Path

import deepspeed
import torch
from torch import Tensor

from actors.learning.engine import make_engine, update
from actors.learning.learner import Learner
from marval_ray.config import GSIMConfig, LearnerConfig
from marval_ray.distil.matcher import ScoreMatcher
from marval_ray.distil.student import Denoiser
from marval_ray.families.base import Backbone, FamilyConfig


@dataclass(frozen=True)
class Matching:
    """What pulls a student to its teacher: GSIM's settings, the teacher's weights and the data. texts: of a model that reads texts."""

    gsim: GSIMConfig
    teacher: Path
    data: Path
    texts: Path | None = None

    def network(self, model: FamilyConfig) -> Backbone:
        """Return what is trained from the teacher's weights on."""
        backbone = model.family.read(self.teacher, model)
        return backbone.head_alone() if self.gsim.freeze_backbone else backbone


@dataclass(frozen=True)
class GSIMRun:
    """All that defines a GSIM run."""

    model: FamilyConfig
    matching: Matching
    learner: LearnerConfig
    seed: int = 0

    def __post_init__(self) -> None:
        if self.model.family.hides_all and self.matching.gsim.w_schedule == "linear":
            raise ValueError("gsim.w-schedule linear would be 1 always, as this model's contexts hide all values: use constant")

    def make(self, device: torch.device) -> "GSIMLearner":
        return GSIMLearner(self, device)


def make_matcher(matching: Matching, model: FamilyConfig, learner: Learner, one_backbone: bool = False) -> ScoreMatcher:
    """Return what matches the student of `learner` to the teacher, with an auxiliary network under DeepSpeed. one_backbone: as there."""
    config, family = learner.config, model.family
    contexts = family.contexts(matching.data, model, learner.rank, learner.world, matching.texts)
    teacher = family.read(matching.teacher, model).eval().requires_grad_(False).to(learner.device)
    auxiliary = make_engine(Denoiser(matching.network(model)), config, config.auxiliary_lr, learner.device)

    def learn(loss: Tensor, step: int) -> Tensor:
        return update(auxiliary, loss, config.auxiliary_lr * config.lr_factor(step))

    return ScoreMatcher(
        config=matching.gsim, teacher=teacher, auxiliary=auxiliary, update=learn, contexts=contexts, batch=config.batch,
        seed=learner.seed, rank=learner.rank, all_finite=learner.all_finite, one_backbone=one_backbone,
    )  # fmt: skip


class GSIMLearner(Learner):
    """One rank of the first stage."""

    def __init__(self, run: GSIMRun, device: torch.device):
        super().__init__(run.matching.network(run.model), run.learner, run.seed, device)
        self.matcher = make_matcher(run.matching, run.model, self, one_backbone=run.matching.gsim.freeze_backbone)

    @property
    def engines(self) -> dict[str, deepspeed.DeepSpeedEngine]:
        return super().engines | {"auxiliary": self.matcher.auxiliary}

    def step(self, step: int) -> dict[str, Tensor]:
        """Run update number `step`: the auxiliary network `auxiliary_updates` times, then the student once.

        An update with a loss or gradient that is not finite on some rank is skipped on all of them.
        """
        match = self.matcher.match(self.student, step)
        metrics = match.metrics
        if match.loss is not None:
            metrics |= self.update_student(match.loss.value, step)
        self.count(step, match.bad)
        return metrics
