"""The learner of the second stage: raises the reward of whole images, under the eye of a guard."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deepspeed
import ray
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from actors.crew.pool import Crew, Feed
from actors.crew.shares import Share, Shares
from actors.learning.engine import set_trained, whole_parameters
from actors.learning.gsim import make_matcher
from actors.learning.held_out import Watch
from actors.learning.learner import Learner
from actors.learning.plan import Plan
from actors.learning.ranks import dealt, from_chief
from actors.patience import CalledOff, Patience
from marval_ray.adapters import add_adapters
from marval_ray.config import LearnerConfig
from marval_ray.distil.student import Student
from marval_ray.evaluation.metrics import held_out
from marval_ray.evaluation.scores import Scores
from marval_ray.files.flat import DTYPES, Packer
from marval_ray.files.tensors import StateDict, read_state
from marval_ray.loss import Loss
from marval_ray.reinforce.objective import Objective, freeze
from marval_ray.types import Weights

SHIFT = "class_shift.safetensors"
"""In each checkpoint: `ClassShift.mean`, the same on all ranks."""


@dataclass(frozen=True)
class RLRun:
    """A plan, the actors hired for it, and the weights of its student in the object store: other nodes may not see the file."""

    plan: Plan
    crew: Crew
    student: ray.ObjectRef

    @classmethod
    def of(cls, plan: Plan, crew: Crew) -> "RLRun":
        return cls(plan, crew, ray.put(read_state(plan.student)))

    @property
    def learner(self) -> LearnerConfig:
        return self.plan.learner

    def make(self, device: torch.device) -> "RLLearner":
        return RLLearner(self.plan, self.crew, ray.get(self.student), device)


class RLLearner(Learner):
    """One rank. Rank 0 drives the actors for all ranks and hands them their shares."""

    options = "rl_learner"

    def __init__(self, plan: Plan, crew: Crew, state: StateDict, device: torch.device):
        model, rl = plan.model, plan.rl
        student = model.family.load(state, model, plan.student)
        freeze(student, rl)
        if rl.lora_rank:
            add_adapters(student, rl.lora_rank, plan.seed)
        super().__init__(student, plan.learner, plan.seed, device, warm_start=False)  # it begins with a good student
        self.plan, self.crew = plan, crew
        self.objective = Objective(model, rl, self._initial(state), plan.seed, device, dist.all_reduce, plan.matching.texts)
        self.matcher = make_matcher(plan.matching, model, self) if rl.gsim_weight else None
        self.pack = Packer(DTYPES[rl.weight_dtype])
        self.shares: Shares | None = None
        self.watch: Watch | None = None
        if self.rank == 0:
            feed = Feed(crew, rl, plan.learner.batch * self.world, plan.prompts, plan.seed, self._stopping)
            self.shares = Shares(feed, self.world)
            if crew.judge is not None:
                self.watch = Watch(plan.guard, crew.judge, Patience(crew.answer_seconds, self._stopping))

    def _initial(self, state: StateDict) -> Student | None:
        """Return the student before RL, if leaving it has a price."""
        model, rl = self.plan.model, self.plan.rl
        if not (rl.drift_weight or rl.class_drift_weight):
            return None
        return Student(model.family.load(state, model, self.plan.student)).eval().requires_grad_(False).to(self.device)

    @property
    def engines(self) -> dict[str, deepspeed.DeepSpeedEngine]:
        return super().engines | ({"auxiliary": self.matcher.auxiliary} if self.matcher else {})

    def begin(self, step: int) -> None:
        """Publish the weights, start the rollouts and take the scores before RL. Raises CalledOff and WorkerError on every rank."""
        weights = self._weights(step)
        if self.shares is not None and weights is not None:
            self.shares.begin(step, weights)
        look = from_chief(lambda: self.watch and self.watch.begin(self._average()))
        if look:
            self.pictures[step] = look.pictures

    def step(self, step: int) -> dict[str, Tensor]:
        """Run update number `step` on batch `step`; then publish, and at times ask the judge."""
        share: Share = dealt(lambda: self.shares.deal(step) if self.shares else [])
        good = share.scored.finite()
        # The mean of no score is not finite; all ranks decide together, or they would wait for each other for ever.
        bad = [] if self.all_finite(share.scored.score[good].mean().to(self.device)) else ["every reward or its gradient"]
        metrics: dict[str, Tensor] = {}
        for _ in range(self.plan.rl.epochs):
            metrics |= self._update(step, share, bad)
            if bad:
                break
        self.count(step, bad)
        # Before publishing: it may go back to other weights.
        judged = {} if (step + 1) % self.plan.guard.every else self._look(step + 1)
        if (step + 1) % self.plan.rl.publish_every == 0:
            self._publish(step + 1)
        return metrics | as_metrics(share.flow | judged | {"dropped": float((~good).sum())})

    def end(self, step: int) -> dict[str, Tensor]:
        """Ask the judge about the last student too, or what was learnt since the last look would be lost."""
        return as_metrics(self._look(step) if step % self.plan.guard.every else {})

    def _update(self, step: int, share: Share, bad: list[str]) -> dict[str, Tensor]:
        """Learn once from a batch unless something is not finite, which `bad` then says."""
        loss = self._with_matching(self.objective.loss(self.student, step, share.rollout, share.scored), step, bad)
        if not self.all_finite(loss.value):
            bad.append("loss")
        return loss.metrics | ({} if bad else self.update_student(loss.value, step))

    def _with_matching(self, loss: Loss, step: int, bad: list[str]) -> Loss:
        """Add GSIM's loss, where it has a weight; `bad` gets what was not finite."""
        if self.matcher is None:
            return loss
        match = self.matcher.match(self.student, step)
        bad += match.bad
        if match.loss is not None:
            loss = loss + self.plan.rl.gsim_weight * match.loss
        return Loss(loss.value, loss.metrics | match.metrics)

    def _publish(self, version: int) -> None:
        weights = self._weights(version)
        if self.shares is not None and weights is not None:
            self.shares.feed.publish(weights)

    def _weights(self, version: int) -> Weights | None:
        """Pack the live student into one buffer (rank 0). Every rank calls this."""
        with whole_parameters(self.student, self.student.module.backbone) as parameters:
            return self.pack(parameters, version) if self.rank == 0 else None

    def _average(self) -> dict[str, Tensor]:
        """Return a copy of the averaged student (rank 0)."""
        assert self.ema is not None
        return {name: value.clone() for name, value in self.ema.shadow.items()}

    def _look(self, step: int) -> dict[str, float]:
        """Ask the judge, if there is one, then stop or go back if it must be. The same on all ranks."""
        guard = self.plan.guard
        if self.crew.judge is None:
            return {}
        try:
            look, exhausted = from_chief(lambda: self.watch and self.watch.ask(step, self._average()))
        except CalledOff:  # the update is done and kept; the run ends after it
            return {}
        if exhausted and guard.action == "stop":
            self.done = True
        elif exhausted:
            self._roll_back()
        self.pictures[step] = look.pictures
        return figures_of(look.scores, guard.loops)

    def _roll_back(self) -> None:
        """Go on from the best student, with half the learning rate."""
        best = from_chief(lambda: self.watch and self.watch.best)
        set_trained(self.student, self.student.module.backbone, best)
        if self.ema is not None:
            self.ema.load_state_dict({"updates": self.ema.updates, "shadow": best})
        self.lr_scale *= 0.5

    def _stopping(self) -> bool:
        return bool(self.stopping())

    def save(self, folder: Path, step: int) -> None:
        super().save(folder, step)
        if self.rank == 0 and self.objective.shift:
            save_file({"mean": self.objective.shift.mean}, folder / SHIFT)
        if self.watch is not None:
            self.watch.save(folder)

    def load(self, folder: Path) -> int:
        if self.watch is not None:
            self.watch.load(folder)
        if self.objective.shift:
            self.objective.shift.mean = load_file(folder / SHIFT)["mean"].to(self.device)
        return super().load(folder)

    def extra_state(self) -> dict[str, Any]:
        return {"lr_scale": self.lr_scale, "done": self.done, **self.objective.state()}

    def load_extra_state(self, progress: dict[str, Any]) -> None:
        self.lr_scale, self.done = progress["lr_scale"], progress["done"]
        self.objective.load_state(progress)


def as_metrics(figures: dict[str, float]) -> dict[str, Tensor]:
    return {name: torch.tensor(value) for name, value in figures.items()}


def figures_of(scores: tuple[Scores, ...], loops: tuple[int, ...]) -> dict[str, float]:
    """Name the held-out scores at each N_AR as metrics; those at the first one have no number behind."""
    return {
        held_out(name) + (f"/{n}" if n != loops[0] else ""): float(value)
        for n, at in zip(loops, scores, strict=True)
        for name, value in at.known().items()
    }
