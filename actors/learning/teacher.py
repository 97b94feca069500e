"""The learner of a teacher: MAR's own training loss on real tokens."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from actors.learning.learner import Learner
from marval_ray.config import LearnerConfig
from marval_ray.distil.denoising import Noising
from marval_ray.distil.student import Denoiser
from marval_ray.draws import rank_generator
from marval_ray.families.base import Backbone, FamilyConfig


@dataclass(frozen=True)
class TeacherRun:
    """All that defines the training of a teacher.

    init: weights to begin with, else random ones of `seed`. drop: share of the images whose prompt is left out. repeats: draws
    of (t, e) for each token in an update.
    """

    model: FamilyConfig
    data: Path
    learner: LearnerConfig
    init: Path | None = None
    drop: float = 0.1
    repeats: int = 4
    seed: int = 0

    def make(self, device: torch.device) -> "TeacherLearner":
        return TeacherLearner(self, device)

    def backbone(self) -> Backbone:
        """Return what training begins with, the same on all ranks."""
        if self.init is not None:
            return self.model.family.read(self.init, self.model)
        torch.manual_seed(self.seed)
        return self.model.family.build(self.model)


class TeacherLearner(Learner):
    """One rank."""

    def __init__(self, run: TeacherRun, device: torch.device):
        super().__init__(run.backbone(), run.learner, run.seed, device, module=Denoiser)
        self.run = run
        self.contexts = run.model.family.contexts(run.data, run.model, self.rank, self.world)

    def step(self, step: int) -> dict[str, Tensor]:
        """Run update number `step`; one whose loss is not finite on some rank is skipped on all of them."""
        generator = rank_generator(self.seed, step, 0, self.rank)
        context = self.contexts.batch(self.seed, step, self.config.batch, generator, self.run.drop)
        noising = Noising.draw(context.hidden.numel() * self.run.repeats, self.run.model.token_channels, generator)
        context = context.to(self.device)
        loss, metrics = self.student(context, context.hidden_values(), noising.to(self.device))
        bad = [] if self.all_finite(loss) else ["loss"]
        if not bad:
            metrics |= self.update_student(loss, step)
        self.count(step, bad)
        return metrics
