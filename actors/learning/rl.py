"""The learner of the second stage: raises the reward of whole images, under the eye of a guard."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import deepspeed
import numpy as np
import ray
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from actors.crew.plan import Plan, rollout_sampler
from actors.crew.pool import Crew, Feed
from actors.crew.shares import Share, flow_metrics, joined, split
from actors.errors import WorkerError
from actors.learning.engine import whole_parameters
from actors.learning.gsim import ScoreMatcher
from actors.learning.learner import Learner
from actors.learning.watch import Watch
from actors.patience import CalledOff, Patience
from marval_ray.config import LearnerConfig
from marval_ray.distil.student import Student
from marval_ray.families.mar.checkpoint import build_model
from marval_ray.families.mar.loop import Draws
from marval_ray.families.mar.model import gather_tokens
from marval_ray.families.mar.replay import ReplayedLoop, replay_apart, replay_chain
from marval_ray.files.flat import DTYPES, Packer
from marval_ray.files.tensors import StateDict, read_state
from marval_ray.reinforce.losses import ClassShift, clipped_policy, drift, group_advantages, log_ratio, mean_and_std, pathwise, saturation
from marval_ray.types import Rollout, Scored, Weights

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

    def __init__(self, plan: Plan, crew: Crew, state: StateDict, device: torch.device):
        student, rl = build_model(plan.model, state, plan.student), plan.rl
        student.head.requires_grad_(not rl.freeze_head)
        super().__init__(student, plan.learner, plan.seed, device, warm_start=False)  # it begins with a good student
        self.plan, self.crew = plan, crew
        self.initial: Student | None = None
        self.shift = ClassShift(plan.model.num_classes, plan.model.num_tokens, plan.model.token_channels, device)
        if rl.drift_weight or rl.class_drift_weight:
            self.initial = Student(build_model(plan.model, state, plan.student)).eval().requires_grad_(False).to(device)
        self.matcher = ScoreMatcher(plan.gsim, self) if rl.gsim_weight else None
        self.pack = Packer(DTYPES[rl.weight_dtype])
        self.feed: Feed | None = None
        if self.rank == 0:
            self.feed = Feed(crew, rl, plan.learner.batch * self.world, plan.model.num_classes, plan.seed, self._stopping)
        self.watch = None
        if crew.judge is not None and self.rank == 0:
            self.watch = Watch(plan.guard, crew.judge, Patience(crew.answer_seconds, self._stopping))
        self.scale: tuple[float, float] | None = None
        """Mean and standard deviation of the scores of the first batch."""

    @property
    def engines(self) -> dict[str, deepspeed.DeepSpeedEngine]:
        return super().engines | ({"auxiliary": self.matcher.auxiliary} if self.matcher else {})

    def begin(self, step: int) -> None:
        """Publish the weights, start the rollouts and take the scores before RL. Raises CalledOff and WorkerError on every rank."""
        weights = self._weights(step)
        if self.feed is not None and weights is not None:
            self.feed.begin(step, weights)
            self.delivered = time.perf_counter()
        self._from_chief(self._measure_before)

    def _measure_before(self) -> None:
        if self.watch is not None:
            self.watch.begin(self._average())

    def step(self, step: int) -> dict[str, Tensor]:
        """Update number `step` on batch `step`; then publish, and at times ask the judge."""
        share = self._share(step)
        good = share.scored.finite()
        loss, metrics = self._loss(step, share.rollout, share.scored, good)
        # The mean of no score is not finite; all ranks decide together, or they would wait for each other for ever.
        bad = [] if self.all_finite(share.scored.score[good].mean().to(self.device)) else ["every reward or its gradient"]
        if self.matcher:
            matching, more, problems = self.matcher.surrogate(step)
            bad, metrics = bad + problems, metrics | more
            loss = loss if matching is None else loss + self.plan.rl.gsim_weight * matching
        if not self.all_finite(loss):
            bad.append("loss")
        if not bad:
            metrics |= self.update_student(loss, step)
        self.count(step, bad)
        held_out = self._look(step + 1)  # before publishing: it may go back to other weights
        if (step + 1) % self.plan.rl.publish_every == 0:
            weights = self._weights(step + 1)
            if self.feed is not None and weights is not None:
                self.feed.publish(weights)
        figures = share.flow | held_out | {"dropped": float((~good).sum())}
        return metrics | {name: torch.tensor(value) for name, value in figures.items()}

    def _loss(self, step: int, rollout: Rollout, scored: Scored, good: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        rl, c = self.plan.rl, self.plan.model
        score = scored.score[good]
        if self.scale is None:
            self.scale = mean_and_std(score.to(self.device), dist.all_reduce)  # stays None without a usable score
        draws = Draws.from_seed(
            rollout.seed, list(rollout.indices), c.num_tokens, c.token_channels, rollout_sampler(c, rl).noise_steps
        )
        estimate = self._policy if rl.estimator == "policy" else self._pathwise
        loss, metrics = estimate(step, rollout.to(self.device), draws.to(self.device), scored, good)
        mean = score.mean() if len(score) else torch.tensor(0.0)
        return loss, metrics | {"reward": mean, "reward_std": score.std(correction=0) if len(score) else mean}

    def _pathwise(
        self, step: int, rollout: Rollout, draws: Draws, scored: Scored, good: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        rl = self.plan.rl
        if scored.gradient is None:
            raise ValueError(f"rewards {rl.rewards} have no gradient: use rl.estimator policy")
        tokens, loops = replay_chain(self.student, rollout, draws, rl.loops, self._last(step), rl.recompute)
        gradient = torch.where(good[:, None, None], scored.gradient, 0.0).to(self.device)
        loss = pathwise(tokens, gradient, self._weight(scored, good).to(self.device))
        value, metrics = loss.value, loss.metrics
        if self.initial is not None:
            with torch.no_grad():
                initial = [self.initial(replayed.context, replayed.noise) for replayed in loops]
            price, more = self._drift(rollout.labels, loops, torch.cat(initial))
            value, metrics = value + price, metrics | more
        return value, metrics

    def _drift(self, labels: Tensor, loops: list[ReplayedLoop], initial: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The price of leaving the initial student: of each token, and of each class as a whole."""
        rl, prediction = self.plan.rl, torch.cat([replayed.prediction for replayed in loops])
        distance = drift(prediction, initial)
        cells = torch.cat([self.shift.cells(labels, replayed.loop.predicted) for replayed in loops])
        sums = self.shift.sums(cells, prediction.detach() - initial)
        dist.all_reduce(sums)
        self.shift.update(sums)
        price = rl.drift_weight * distance + rl.class_drift_weight * self.shift.penalty(cells, prediction)
        return price, {"drift": distance.detach(), "class_drift": 0.5 * self.shift.mean.square().sum(-1).mean()}

    def _policy(
        self, step: int, rollout: Rollout, draws: Draws, scored: Scored, good: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Rollouts of these very weights have this replay's own mean for the old one: the ratio is 1, although on a GPU they
        were drawn with bfloat16 weights and the replay rounds elsewhere. For older ones the recorded noise tells it."""
        rl = self.plan.rl
        advantages = group_advantages(scored.score, good, rl.group).to(self.device)
        logs, weights = [], []
        for replayed in replay_apart(self.student, rollout, draws, rl.loops, self._last(step)):
            places = replayed.loop.predicted
            action, explored = (gather_tokens(x, places).flatten(0, 1) for x in (rollout.tokens, draws.steps[0]))
            mean = replayed.prediction
            old_mean = mean.detach() if rollout.version == step else action - rl.exploration * explored
            logs.append(log_ratio(action, mean, old_mean, rl.exploration))
            weights.append(advantages.repeat_interleave(places.shape[1]))
        loss = clipped_policy(torch.cat(logs), torch.cat(weights), rl.clip)
        return loss.value, loss.metrics

    def _weight(self, scored: Scored, good: Tensor) -> Tensor:
        """Factor of each image's reward gradient."""
        rl = self.plan.rl
        mean, std = self.scale or (0.0, 1.0)
        weight = torch.full_like(scored.score, 1 / std if rl.reward_scale else 1.0)
        if rl.saturate is not None:
            weight = weight * saturation((scored.score - mean) / std, rl.saturate, 1.0)
        return torch.where(good, weight, 0.0)

    def _last(self, step: int) -> int:
        """K, the same on all ranks."""
        rl = self.plan.rl
        return int(np.random.default_rng((self.seed, step)).integers(1, rl.last + 1)) if rl.random_last else rl.last

    def _share(self, step: int) -> Share:
        """This rank's part of batch `step`. Every rank raises what rank 0 met."""
        shares: list[Any] = [None] * self.world
        if self.feed is not None:
            shares = self._shares(self.feed, step)
        mine: list[Any] = shares
        if self.world > 1:
            mine = [None]
            dist.scatter_object_list(mine, shares, src=0)
        return raised(mine[0])

    def _shares(self, feed: Feed, step: int) -> list[Any]:
        """The parts of all ranks, or the error that there is instead."""
        began = time.perf_counter()
        try:
            deliveries = feed.batch(step)
        except (WorkerError, CalledOff) as error:
            return [error] * self.world
        before, self.delivered = self.delivered, time.perf_counter()
        flow = flow_metrics(deliveries, self.delivered - began, self.delivered - before, step, feed)
        return [Share(*part, flow) for part in split(*joined(deliveries), self.world)]

    def _weights(self, version: int) -> Weights | None:
        """The live student in one buffer (rank 0). Every rank calls this."""
        with whole_parameters(self.student, self.student.module.mar) as parameters:
            return self.pack(parameters, version) if self.rank == 0 else None

    def _average(self) -> dict[str, Tensor]:
        """A copy of the averaged student (rank 0)."""
        assert self.ema is not None
        return {name: value.clone() for name, value in self.ema.shadow.items()}

    def _look(self, step: int) -> dict[str, float]:
        """Every `guard.every` updates: ask the judge, then stop or go back if it must be. The same on all ranks."""
        guard = self.plan.guard
        if self.crew.judge is None or step % guard.every:
            return {}
        try:
            scores, exhausted = self._from_chief(lambda: self.watch and self.watch.look(step, self._average()))
        except CalledOff:  # the update is done and kept; the run ends after it
            return {}
        if exhausted and guard.action == "stop":
            self.done = True
        elif exhausted:
            self._roll_back()
        return {f"held_out/{name}": float(value) for name, value in asdict(scores).items()}

    def _roll_back(self) -> None:
        """Go on from the best student, with half the learning rate."""
        best = self._from_chief(lambda: self.watch and self.watch.best)
        for name, parameter in self.student.module.mar.named_parameters():
            if parameter.requires_grad:
                deepspeed.utils.safe_set_full_fp32_param(parameter, best[name].to(self.device))
        if self.ema is not None:
            self.ema.load_state_dict({"updates": self.ema.updates, "shadow": best})
        self.lr_scale *= 0.5

    def _from_chief(self, work: Callable[[], Any]) -> Any:
        """What `work` gives on rank 0, on every rank; every rank raises what rank 0 met."""
        told: list[Any] = [None]
        if self.rank == 0:
            try:
                told = [work()]
            except (WorkerError, CalledOff) as error:
                told = [error]
        if self.world > 1:
            dist.broadcast_object_list(told, src=0)
        return raised(told[0])

    def _stopping(self) -> bool:
        return bool(self.stopping())

    def save(self, folder: Path, step: int) -> None:
        super().save(folder, step)
        if self.rank == 0:
            save_file({"mean": self.shift.mean}, folder / SHIFT)
        if self.watch is not None:
            self.watch.save(folder)

    def load(self, folder: Path) -> int:
        if self.watch is not None:
            self.watch.load(folder)
        self.shift.mean = load_file(folder / SHIFT)["mean"].to(self.device)
        return super().load(folder)

    def extra_state(self) -> dict[str, Any]:
        return {"scale": self.scale, "lr_scale": self.lr_scale, "done": self.done}

    def load_extra_state(self, progress: dict[str, Any]) -> None:
        self.lr_scale, self.done = progress["lr_scale"], progress["done"]
        self.scale = None if progress["scale"] is None else tuple(progress["scale"])


def raised(told: Any) -> Any:
    """`told`, which is raised if it is an error that rank 0 met."""
    if isinstance(told, (WorkerError, CalledOff)):
        raise told
    return told
