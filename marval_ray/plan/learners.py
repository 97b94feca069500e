"""The memory of the learners: an update is done once, on tensors without storage, by the functions that do it in earnest."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from marval_ray.config import GSIMConfig, LearnerConfig, RLConfig
from marval_ray.distil.matcher import ScoreMatcher
from marval_ray.distil.student import Denoiser, Student
from marval_ray.draws import Draws
from marval_ray.families.base import Backbone, RecordedLoop
from marval_ray.families.mar.config import ModelConfig
from marval_ray.families.mar.context import MARContext
from marval_ray.families.mar.loop import plan_loops
from marval_ray.families.mar.masking import RATIO_MIN
from marval_ray.plan.counting import META, LiveBytes, build, counting, floats, parameters_of, tokens_of
from marval_ray.plan.need import Need
from marval_ray.plan.zero import Engine
from marval_ray.reinforce.objective import Objective, freeze
from marval_ray.reinforce.replay import replay_chain
from marval_ray.types import Prompts, Rollout, Scored, Tokens


@dataclass(frozen=True)
class Hidden:
    """Contexts of stage 1 that hide so many tokens of each image."""

    model: ModelConfig
    count: int

    def batch(self, seed: int, step: int, size: int, generator: torch.Generator, drop: float = 0.0) -> MARContext:
        return context_of(self.model, size, self.model.num_tokens - self.count, self.count)


def context_of(c: ModelConfig, batch: int, known: int, hidden: int) -> MARContext:
    """Return a context with so many known and hidden tokens an image."""
    places = torch.empty(batch, known + hidden, dtype=torch.long, device=META)
    return MARContext(tokens_of(c, batch), places[:, 0], *(part.clone() for part in places.split([known, hidden], dim=1)))


def trained(c: ModelConfig, gsim: GSIMConfig) -> Backbone:
    return build(c).head_alone() if gsim.freeze_backbone else build(c)


class Pull:
    """Teacher and auxiliary network, where GSIM is part of the loss."""

    def __init__(self, c: ModelConfig, gsim: GSIMConfig):
        self.model, self.gsim = c, gsim
        self.teacher, self.auxiliary = build(c).requires_grad_(False), Denoiser(trained(c, gsim))

    def matcher(self, learner: LearnerConfig, gpu: bool, hidden: int, one_backbone: bool = False) -> ScoreMatcher:
        engine = Engine(self.auxiliary, learner, gpu)
        return ScoreMatcher(
            config=self.gsim, teacher=self.teacher, auxiliary=engine, update=engine.update, contexts=Hidden(self.model, hidden),
            batch=learner.batch, seed=0, rank=0, all_finite=lambda *values: True, one_backbone=one_backbone,
        )  # fmt: skip


def matching_loss(matcher: ScoreMatcher, student: Engine) -> Tensor:
    loss = matcher.match(student, 0).loss
    assert loss is not None  # all is finite
    return loss.value


def gsim_learner(c: ModelConfig, gsim: GSIMConfig, learner: LearnerConfig, gpu: bool) -> Need:
    """Count an update of the auxiliary network and one of the student, with as many tokens hidden as takes most."""
    fewest = math.ceil(RATIO_MIN * c.num_tokens) if c.masking == "mar" else 1
    return max((_gsim_learner(c, gsim, learner, gpu, hidden) for hidden in (fewest, c.num_tokens)), key=lambda need: need.total)


def _gsim_learner(c: ModelConfig, gsim: GSIMConfig, learner: LearnerConfig, gpu: bool, hidden: int) -> Need:
    with counting(bf16=gpu) as live:
        network, pull = Student(trained(c, gsim)), Pull(c, gsim)
        average = floats(parameters_of(c))
        weights = live.live
        student, matcher = Engine(network, learner, gpu), pull.matcher(learner, gpu, hidden, gsim.freeze_backbone)
        optimiser = live.live - weights
        student.update(matching_loss(matcher, student))
        del average
        return Need(weights, optimiser, live.peak - weights - optimiser)


def rl_learner(c: ModelConfig, rl: RLConfig, gsim: GSIMConfig, learner: LearnerConfig, gpu: bool) -> Need:
    """Count an update on `learner.batch` images that were drawn in the first of `rl.loops`."""
    return rl_learners(c, rl, gsim, learner, gpu, [rl.last])[0]


def rl_learners(c: ModelConfig, rl: RLConfig, gsim: GSIMConfig, learner: LearnerConfig, gpu: bool, lasts: Sequence[int]) -> list[Need]:
    """Count the same for several K, of which none but `rl.last` may be 1.

    The last two loops are replayed. What the others hold until the way back is added: it is a line in the numbers of their tokens.
    """
    with counting(bf16=gpu) as live:
        network = Student(build(c))
        freeze(network.backbone, rl)
        initial = Student(build(c)).requires_grad_(False) if rl.drift_weight or rl.class_drift_weight else None
        pull = Pull(c, gsim) if rl.gsim_weight else None
        average = floats(parameters_of(c))
        weights = live.live
        student = Engine(network, learner, gpu)
        matcher = pull.matcher(learner, gpu, c.num_tokens) if pull else None
        optimiser = live.live - weights
        held = held_by_loops(student, live, learner.batch, rl)
        live.restart()
        loss = replay_loss(c, rl, learner.batch, student, initial)
        student.update(loss if matcher is None else loss + rl.gsim_weight * matching_loss(matcher, student))
        del average
        working = live.peak - weights - optimiser
        return [Need(weights, optimiser, working + sum(held[-last:-2])) for last in lasts]


def replay_loss(c: ModelConfig, rl: RLConfig, batch: int, student: Engine, initial: Student | None) -> Tensor:
    """Return the loss of an update that replays the last two loops, or the last one, of a scored batch."""
    objective = Objective(c, replace(rl, last=min(rl.last, 2), random_last=False), initial, 0, META, lambda total: None)
    objective.scale = (0.0, 1.0)  # it would read the scores
    prompts, draws = Prompts.classes_in_turn(c.num_classes, batch), Draws(0, tuple(range(batch)))
    rollout = Rollout(Tokens(tokens_of(c, batch)), prompts, draws, rl.loops[0], 0, 0)
    scored = Scored(torch.zeros(batch), torch.zeros(batch, c.num_tokens, c.token_channels))
    return objective.loss(student, 0, rollout, scored).value


def held_by_loops(student: Engine, live: LiveBytes, batch: int, rl: RLConfig) -> list[int]:
    """Return the bytes that each loop of a replay holds until the way back.

    They are constant + a x known + b x hidden tokens: attention that never holds its weights has no term beyond that.
    """
    c, recompute = student.module.backbone.config, rl.recompute and rl.estimator == "pathwise"

    def held(known: int, hidden: int) -> int:
        context = context_of(c, batch, known, hidden)
        noise = torch.empty(batch * hidden, c.token_channels, device=META)
        before = live.live
        graph = replay_chain(student, context.tokens, [RecordedLoop(context, noise, noise)], recompute)
        after = live.live
        del graph
        return after - before

    last = c.num_tokens - 1
    constant = held(0, 1)
    by_known, by_hidden = (held(last, 1) - constant) / last, (held(0, last + 1) - constant) / last
    loops = plan_loops(torch.arange(c.num_tokens)[None], rl.loops[0], c.student_reveal)
    return [round(constant + by_known * loop.known.shape[1] + by_hidden * (loop.predicted.shape[1] - 1)) for loop in loops]
