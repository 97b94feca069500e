"""What an update of RL is, without Ray: from a scored rollout to the loss of the student that drew it.

The pathwise estimate follows the reward's gradient through the last K loops; the policy gradient weighs the likelihood of
tokens that were drawn with exploration, or of discrete codes. A price holds the student near the one that RL began with.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from marval_ray.config import ObjectiveConfig
from marval_ray.diffusion.samplers import Exploring, TokenSampler
from marval_ray.distil.student import Student
from marval_ray.families.base import Backbone, Condition, FamilyConfig, Predict, RecordedLoop
from marval_ray.loss import Loss
from marval_ray.reinforce.losses import (
    ClassShift,
    clipped_policy,
    code_drift,
    drift,
    group_advantages,
    log_ratio,
    mean_and_std,
    pathwise,
    saturation,
)
from marval_ray.reinforce.replay import ReplayedLoop, replay_apart, replay_chain
from marval_ray.types import Rollout, Scored


def rollout_sampler(model: FamilyConfig, rl: ObjectiveConfig) -> TokenSampler:
    """Return how rollouts are drawn: with exploration for the policy gradient."""
    if rl.estimator == "policy":
        return Exploring(model.one_step, rl.exploration)
    return model.one_step


def check_objective(model: FamilyConfig, rl: ObjectiveConfig) -> None:
    """Raise ValueError when the options do not go together, or the model has no classes whose shift could be priced."""
    if rl.epochs > 1 and rl.estimator.startswith("pathwise"):
        raise ValueError(
            "rl.epochs above 1 needs rl.estimator policy or codes: the pathwise gradient is that of the weights that drew the batch"
        )
    if rl.class_drift_weight and model.num_classes is None:
        raise ValueError("rl.class_drift_weight needs a model of classes: set it to 0 for one that reads texts")
    if rl.learns_codes and not model.family.explores_codes(model):
        raise ValueError(f"rl.estimator {rl.estimator} needs a model that draws discrete codes at random: use pathwise or policy")


def check_groups(rl: ObjectiveConfig, batch: int) -> None:
    """Raise ValueError when a learner's batch does not consist of whole groups, where images of one prompt are compared."""
    if rl.in_groups and batch % rl.group:
        raise ValueError(f"rl_learner.batch {batch} is not a multiple of rl.group {rl.group}, which the policy gradient needs")


def freeze(student: Backbone, rl: ObjectiveConfig) -> None:
    """Leave what does not learn without gradients."""
    if rl.freeze_backbone:
        student.head_alone()
    student.head.requires_grad_(not rl.freeze_head and rl.estimator != "codes")


class Objective:
    """The losses of one rank, with what they remember from update to update.

    initial: the student before RL, when leaving it has a price. add_up: adds a tensor over all ranks, in place. texts: the text encoder
    of a model that reads texts.
    """

    def __init__(
        self, model: FamilyConfig, rl: ObjectiveConfig, initial: Student | None, seed: int, device: torch.device,
        add_up: Callable[[Tensor], object], texts: Path | None = None,
    ):  # fmt: skip
        check_objective(model, rl)
        self.rl, self.initial, self.seed, self.device, self.add_up = rl, initial, seed, device, add_up
        self.model, self.family, self.sampler = model, model.family, rollout_sampler(model, rl)
        self.conditioner = model.family.conditioner(model, device, texts)
        self.shift: ClassShift | None = None
        if model.num_classes is not None:
            self.shift = ClassShift(model.num_classes, model.num_tokens, model.token_channels, device)
        self.scale: tuple[float, float] | None = None
        """Mean and standard deviation of the scores of the first batch."""
        self.own: dict[str, tuple[int, Tensor]] = {}
        """Of policies, by name: the update whose batch these weights drew, and what they predicted for it."""

    def loss(self, student: Predict, step: int, rollout: Rollout, scored: Scored) -> Loss:
        """Return the loss of update `step`; images without a usable score count as nothing. May be called `epochs` times a step.

        Raises ValueError when the pathwise estimate is wanted of a reward without a gradient.
        """
        good = scored.finite()
        score = scored.score[good]
        if self.scale is None:
            self.scale = mean_and_std(score.to(self.device), self.add_up)  # stays None without a usable score
        rollout = rollout.to(self.device)
        condition = self.conditioner(rollout.prompts)
        loss = self._values(student, step, rollout, condition, scored)
        if self.rl.learns_codes:
            loss = loss + self._codes(student, step, rollout, condition, scored)
        mean = score.mean() if len(score) else torch.tensor(0.0)
        std = score.std(correction=0) if len(score) else mean
        return Loss(loss.value, loss.metrics | {"reward": mean, "reward_std": std})

    def _values(self, student: Predict, step: int, rollout: Rollout, condition: Condition, scored: Scored) -> Loss:
        """Return what the values of tokens cost."""
        loops = list(self.family.recorded(rollout, condition, self.sampler, rollout.loops))[-self._last(step) :]
        estimate = {"policy": self._policy, "codes": self._no_estimate}.get(self.rl.estimator, self._pathwise)
        loss, replayed = estimate(student, step, loops, rollout, scored)
        if self.initial is not None:
            loss = loss + self._drift(replayed, rollout.prompts.labels, self.initial)
        return loss

    def _codes(self, student: Predict, step: int, rollout: Rollout, condition: Condition, scored: Scored) -> Loss:
        """Weigh the likelihood of each code by its image's advantage, and price what leaves the initial student's."""
        rl, loops = self.rl, list(self.family.choices(rollout, self.model, condition))
        found = [checkpoint(student, loop, use_reentrant=False) if rl.recompute else student(loop) for loop in loops]
        every, codes = torch.cat(found), torch.cat([loop.codes for loop in loops])
        chosen = every.gather(1, codes[:, None])[:, 0]
        advantages = group_advantages(scored.score, scored.finite(), rl.group).to(self.device)
        weights = advantages[torch.cat([loop.images for loop in loops])]
        loss = rl.code_weight * clipped_policy(chosen - self._own(step, "codes", chosen), weights, rl.clip)
        if self.initial is None:
            return loss.named("codes")
        with torch.no_grad():
            initial = torch.cat([self.initial(loop) for loop in loops])
        distance = code_drift(every, initial)
        return (loss + Loss(rl.drift_weight * distance, {"drift": distance.detach()})).named("codes")

    def _pathwise(
        self, student: Predict, step: int, loops: list[RecordedLoop], rollout: Rollout, scored: Scored
    ) -> tuple[Loss, list[ReplayedLoop]]:
        if scored.gradient is None:
            raise ValueError(f"rewards {self.rl.rewards} have no gradient: use rl.estimator policy")
        tokens, replayed = replay_chain(student, rollout.tokens.values, loops, self.rl.recompute)
        good = scored.finite()
        gradient = torch.where(good[:, None, None], scored.gradient, 0.0).to(self.device)
        return pathwise(tokens, gradient, self._weight(scored, good).to(self.device)), replayed

    def _no_estimate(
        self, student: Predict, step: int, loops: list[RecordedLoop], rollout: Rollout, scored: Scored
    ) -> tuple[Loss, list[ReplayedLoop]]:
        """Replay for the price of drifting alone, if there is one."""
        zero = torch.zeros((), device=self.device)
        return Loss(zero), [] if self.initial is None else list(replay_apart(student, loops))

    def _drift(self, loops: list[ReplayedLoop], labels: Int64[Tensor, " B"] | None, student: Student) -> Loss:
        """Price leaving the initial student: by each token, and by each class as a whole."""
        with torch.no_grad():
            initial = torch.cat([student(loop.context, loop.recorded.noise) for loop in loops])
        prediction = torch.cat([loop.prediction for loop in loops])
        distance = drift(prediction, initial)
        loss = Loss(self.rl.drift_weight * distance, {"drift": distance.detach()})
        if self.shift is None or labels is None:
            return loss
        labels = labels.to(self.device)
        cells = torch.cat([self.shift.cells(labels, loop.context.hidden) for loop in loops])
        sums = self.shift.sums(cells, prediction.detach() - initial)
        self.add_up(sums)
        self.shift.update(sums)
        size = 0.5 * self.shift.mean.square().sum(-1).mean()
        return loss + Loss(self.rl.class_drift_weight * self.shift.penalty(cells, prediction), {"class_drift": size})

    def _policy(
        self, student: Predict, step: int, loops: list[RecordedLoop], rollout: Rollout, scored: Scored
    ) -> tuple[Loss, list[ReplayedLoop]]:
        """Weigh the likelihood of each token by its image's advantage."""
        rl, replayed = self.rl, list(replay_apart(student, loops))
        advantages = group_advantages(scored.score, scored.finite(), rl.group).to(self.device)
        weights = torch.cat([advantages.repeat_interleave(loop.context.hidden.shape[1]) for loop in replayed])
        drawn, mean = torch.cat([loop.recorded.drawn for loop in replayed]), torch.cat([loop.prediction for loop in replayed])
        old_mean = self._own(step, "values", mean) if rollout.version == step else self._recorded_mean(replayed)
        return clipped_policy(log_ratio(drawn, mean, old_mean, rl.exploration), weights, rl.clip), replayed

    def _own(self, step: int, policy: str, prediction: Float[Tensor, "N *D"]) -> Float[Tensor, "N *D"]:
        """Return what the weights predict that drew this batch: the first replay's own prediction, also for those after it.

        So the first ratio is 1, although on a GPU rollouts are drawn with bfloat16 weights and the replay rounds elsewhere.
        """
        if policy not in self.own or self.own[policy][0] != step:
            self.own[policy] = step, prediction.detach()
        return self.own[policy][1]

    def _recorded_mean(self, loops: list[ReplayedLoop]) -> Float[Tensor, "N D"]:
        """Return what older weights predicted, by the noise that was added to it."""
        recorded = [loop.recorded for loop in loops]
        return torch.cat([each.drawn - self.rl.exploration * each.explored for each in recorded if each.explored is not None])

    def _weight(self, scored: Scored, good: Bool[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Return the factor of each image's reward gradient."""
        mean, std = self.scale or (0.0, 1.0)
        weight = torch.full_like(scored.score, 1 / std if self.rl.reward_scale else 1.0)
        if self.rl.saturate is not None:
            weight = weight * saturation((scored.score - mean) / std, self.rl.saturate, 1.0)
        return torch.where(good, weight, 0.0)

    def _last(self, step: int) -> int:
        """Return K, the same on all ranks."""
        last = self.rl.last
        return int(np.random.default_rng((self.seed, step)).integers(1, last + 1)) if self.rl.random_last else last

    def state(self) -> dict[str, Any]:
        """Return what the next update depends on, for JSON; the running mean of `shift` is a tensor of its own."""
        return {"scale": self.scale}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        self.scale = None if state["scale"] is None else tuple(state["scale"])
