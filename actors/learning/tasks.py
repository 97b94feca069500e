"""The stages of a run as tasks of one shape: what each takes, how it is run, and what is shown before and after."""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import torch

from actors.learning.gsim import GSIMRun
from actors.learning.learner import AVERAGE
from actors.learning.plan import Plan
from actors.learning.reinforce import reinforce, role_demands, try_rewards
from actors.learning.trainer import demand, train
from marval_ray.config import LearnerConfig
from marval_ray.families.base import Backbone
from marval_ray.files.fit import save_weights
from marval_ray.files.storage import Storage
from marval_ray.files.tensors import read_state
from marval_ray.runs.figures import Figures
from marval_ray.runs.stage import GSIM, RL, Stage, read_metrics

Demands = dict[str, list[dict[str, float]]]
"""Resources of each actor, by role."""


def learner_demands(config: LearnerConfig) -> Demands:
    return {"learner": [demand(config)] * config.workers}


@dataclass(frozen=True)
class Task(ABC):
    """One stage of the run in `storage`. loops: N_AR at which students are compared when this stage is the last one."""

    storage: Storage
    loops: int
    stage: ClassVar[Stage]

    def rehearse(self) -> None:  # noqa: B027  (a hook)
        """Try what would show its faults only after the stages before this one."""

    @abstractmethod
    def demands(self) -> Demands:
        """Return what the stage takes at once."""

    @abstractmethod
    def show_before(self, figures: Figures, model: Backbone, loops: int) -> None:
        """Show the model that the stage starts from."""

    @abstractmethod
    def run(self) -> tuple[Path, dict[str, float]]:
        """Train, from the last checkpoint if there is one; return the student's file, and figures for the summary."""

    @abstractmethod
    def show_after(self, figures: Figures, model: Backbone) -> None:
        """Show the student, when this stage is the last one."""


@dataclass(frozen=True)
class Distillation(Task):
    learning: GSIMRun
    stage = GSIM

    def demands(self) -> Demands:
        return learner_demands(self.learning.learner)

    def show_before(self, figures: Figures, model: Backbone, loops: int) -> None:
        figures.before(model, loops)

    def run(self) -> tuple[Path, dict[str, float]]:
        """Train; the student is the averaged one."""
        last, student = train(self.learning, self.storage, GSIM), self.storage.folder / GSIM.student
        save_weights(student, read_state(last / AVERAGE), torch.float32)
        self.storage.push(GSIM.student)
        return student, {}

    def show_after(self, figures: Figures, model: Backbone) -> None:
        figures.distilled(model)


@dataclass(frozen=True)
class Reinforcement(Task):
    plan: Plan
    stage = RL

    def rehearse(self) -> None:
        try_rewards(self.plan)

    def demands(self) -> Demands:
        return learner_demands(self.plan.learner) | role_demands(self.plan.rl, self.plan.judge is not None)

    def show_before(self, figures: Figures, model: Backbone, loops: int) -> None:
        figures.before_rl(model, loops)

    def run(self) -> tuple[Path, dict[str, float]]:
        """Train; the student is the best one by the guard."""
        outcome = asdict(reinforce(self.plan, self.storage))
        student, held_out = outcome.pop("checkpoint"), outcome.pop("held_out")
        return student, outcome | held_out | {"rl_updates": read_metrics(self.storage.folder / RL.metrics)[-1]["step"]}

    def show_after(self, figures: Figures, model: Backbone) -> None:
        figures.reinforced(model, self.loops)
