"""The memory of the learners: an update is done once, on tensors without storage, by the functions that do it in earnest."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from marval_ray.config import GSIMConfig, LearnerConfig, RLConfig
from marval_ray.distil.matcher import ScoreMatcher
from marval_ray.distil.student import Denoiser, Student
from marval_ray.families.base import Backbone, Contexts, FamilyConfig
from marval_ray.plan.counting import META, build, counting, draws_of, floats, parameters_of, prompts_of
from marval_ray.plan.kinds import kind_of
from marval_ray.plan.need import Need
from marval_ray.plan.zero import Engine
from marval_ray.reinforce.objective import Objective, check_groups, freeze
from marval_ray.types import Rollout, Scored


def trained(c: FamilyConfig, gsim: GSIMConfig) -> Backbone:
    return build(c).head_alone() if gsim.freeze_backbone else build(c)


class Pull:
    """Teacher and auxiliary network, where GSIM is part of the loss."""

    def __init__(self, c: FamilyConfig, gsim: GSIMConfig):
        self.model, self.gsim = c, gsim
        self.teacher, self.auxiliary = build(c).requires_grad_(False), Denoiser(trained(c, gsim))

    def matcher(self, learner: LearnerConfig, gpu: bool, contexts: Contexts, one_backbone: bool = False) -> ScoreMatcher:
        engine = Engine(self.auxiliary, learner, gpu)
        return ScoreMatcher(
            config=self.gsim, teacher=self.teacher, auxiliary=engine, update=engine.update, contexts=contexts,
            batch=learner.batch, seed=0, rank=0, all_finite=lambda *values: True, one_backbone=one_backbone,
        )  # fmt: skip


def matching_loss(matcher: ScoreMatcher, student: Engine) -> Tensor:
    loss = matcher.match(student, 0).loss
    assert loss is not None  # all is finite
    return loss.value


def gsim_learner(c: FamilyConfig, gsim: GSIMConfig, learner: LearnerConfig, gpu: bool) -> Need:
    """Count an update of the auxiliary network and one of the student, with as many tokens hidden as takes most."""
    each = (_gsim_learner(c, gsim, learner, gpu, contexts) for contexts in kind_of(c).contexts(c))
    return max(each, key=lambda need: need.total)


def _gsim_learner(c: FamilyConfig, gsim: GSIMConfig, learner: LearnerConfig, gpu: bool, contexts: Contexts) -> Need:
    with counting(bf16=gpu) as live:
        network, pull, reader = Student(trained(c, gsim)), Pull(c, gsim), kind_of(c).reader(c)
        average = floats(parameters_of(c))
        weights = live.live
        student, matcher = Engine(network, learner, gpu), pull.matcher(learner, gpu, contexts, gsim.freeze_backbone)
        optimiser = live.live - weights
        texts = reader()
        student.update(matching_loss(matcher, student))
        del average, texts
        return Need(weights, optimiser, live.peak - weights - optimiser)


def rl_learner(c: FamilyConfig, rl: RLConfig, gsim: GSIMConfig, learner: LearnerConfig, gpu: bool) -> Need:
    """Count an update on `learner.batch` images that were drawn in the first of `rl.loops`."""
    return rl_learners(c, rl, gsim, learner, gpu, [rl.last])[0]


def rl_learners(c: FamilyConfig, rl: RLConfig, gsim: GSIMConfig, learner: LearnerConfig, gpu: bool, lasts: Sequence[int]) -> list[Need]:
    """Count the same for several K, of which none but `rl.last` may be 1.

    The last two loops are replayed. What the others hold until the way back is added: it is a line in the numbers of their tokens.
    Raises ValueError as `check_objective` and `check_groups` do.
    """
    check_groups(rl, learner.batch)
    kind = kind_of(c)
    with counting(bf16=gpu) as live:
        network, initial = learning(c, rl)
        pull, reader = Pull(c, gsim) if rl.gsim_weight else None, kind.reader(c)
        average = floats(parameters_of(c))
        weights = live.live
        student = Engine(network, learner, gpu)
        matcher = pull.matcher(learner, gpu, kind.contexts(c)[-1]) if pull else None
        optimiser = live.live - weights
        held = kind.held_by_loops(student, live, learner.batch, rl)
        live.restart()
        texts = reader()
        loss = replay_loss(c, rl, learner.batch, student, initial)
        student.update(loss if matcher is None else loss + rl.gsim_weight * matching_loss(matcher, student))
        del average, texts
        working = live.peak - weights - optimiser
        return [Need(weights, optimiser, working + sum(held[-last:-2])) for last in lasts]


def learning(c: FamilyConfig, rl: RLConfig) -> tuple[Student, Student | None]:
    """Return what RL trains, and the student before RL where leaving it has a price."""
    network = Student(build(c))
    freeze(network.backbone, rl)
    return network, Student(build(c)).requires_grad_(False) if rl.drift_weight or rl.class_drift_weight else None


def replay_loss(c: FamilyConfig, rl: RLConfig, batch: int, student: Engine, initial: Student | None) -> Tensor:
    """Return the loss of an update that replays the last two loops, or the last one, of a scored batch."""
    objective = Objective(c, replace(rl, last=min(rl.last, 2), random_last=False), initial, 0, META, lambda total: None)
    objective.scale = (0.0, 1.0)  # it would read the scores
    rollout = Rollout(kind_of(c).tokens(c, batch), prompts_of(c, batch), draws_of(batch), rl.loops[0], 0, 0)
    scored = Scored(torch.zeros(batch), torch.zeros(batch, c.num_tokens, c.token_channels))
    return objective.loss(student, 0, rollout, scored).value
