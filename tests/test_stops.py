"""What a GPU would wait for in the loops and updates, as far as tensors without storage show it."""

from dataclasses import replace

import pytest
import torch
from small import MODEL, wish
from stops import stops
from torch import Tensor

from marval_ray.average import EMA
from marval_ray.config import GSIMConfig, LearnerConfig, RLConfig
from marval_ray.diffusion.samplers import Ancestral, Exploring, OneStep
from marval_ray.distil.student import Student
from marval_ray.draws import Draws
from marval_ray.families.base import Context
from marval_ray.families.mar.batching import advance, begin
from marval_ray.families.mar.loop import Randomness, sample_tokens
from marval_ray.plan.counting import META, build
from marval_ray.plan.learners import Pull, replay_loss
from marval_ray.plan.mar import Hidden
from marval_ray.plan.zero import Engine

SHAPE = (3, MODEL.num_tokens, MODEL.token_channels)


@pytest.mark.parametrize(
    "stop",
    [
        lambda x: x.copy_(torch.ones(2)),
        lambda x: torch.ones(2).to(META),
        lambda x: torch.tensor([1.0], device=META),
        lambda x: torch.as_tensor([1.0], device=META),
        lambda x: x[torch.tensor([0, 1])],
        lambda x: x.index_put_((x > 0,), x),
    ],
)
def test_each_copy_from_the_host_is_found(stop):
    with stops() as found:
        stop(torch.ones(2, device=META))
    assert len(found) == 1


@pytest.mark.parametrize("stop", [lambda x: x.sum().item(), lambda x: bool(x.all()), lambda x: x.nonzero(), lambda x: x[x > 0]])
def test_values_are_not_told(stop):
    with pytest.raises((RuntimeError, NotImplementedError)):
        stop(torch.ones(2, device=META))


def test_what_stays_on_the_device_is_no_stop():
    x = torch.ones(2, device=META)
    with stops() as found:
        (x[x.argsort()] + 1).lerp_(torch.full_like(x, 2.0), 0.5).where(x > 0, 0.0)
    assert not found


SAMPLERS = [OneStep(400), Exploring(OneStep(400), 0.1), Ancestral(steps=5, cfg=3.0, clip_x0=1.0), Ancestral(steps=5)]


@torch.no_grad()
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_auto_regressive_loops_have_no_host_stop(sampler):
    model, random = build(MODEL), Randomness.of(Draws(0, (0, 1, 2)), *SHAPE[1:], sampler.noise_steps).to(META)
    labels = torch.zeros(3, dtype=torch.long, device=META)
    sample_tokens(model, sampler, labels, random, 1)  # copies the table of the diffusion, once a device
    with stops() as found:
        assert sample_tokens(model, sampler, labels, random, 6).shape == SHAPE
    assert not found


def test_a_loop_of_the_endpoint_stops_for_one_copy():
    """Where images are, and in which loop, the CPU alone knows."""
    model = build(MODEL)
    drawings = [begin(wish(0, 1, k, loops), model) for k, loops in enumerate((1, 4, 16))]
    advance(drawings)
    with stops() as found:
        advance(drawings[1:])
    assert len(found) == 1


def test_an_update_of_gsim_copies_its_draws_before_it_begins():
    pull, learner = Pull(MODEL, GSIMConfig(auxiliary_updates=2)), LearnerConfig(batch=3)
    matcher, student = pull.matcher(learner, gpu=False, contexts=Hidden(MODEL, 5)), Engine(Student(build(MODEL)), learner, gpu=False)
    copied = []

    def predict(context: Context, noise: Tensor) -> Tensor:
        copied.append(len(found))
        return student(context, noise)

    matcher.match(student, 0)  # copies the table of the diffusion
    with stops() as found:
        loss = matcher.match(predict, 1).loss
        assert loss is not None
        student.update(loss.value)
    assert copied == [5, 10] and len(found) == 10


@pytest.mark.parametrize("estimator", ["pathwise", "policy"])
def test_an_update_of_rl_copies_as_much_for_two_loops_as_for_one(estimator):
    learner = LearnerConfig(batch=4)
    student, initial = Engine(Student(build(MODEL)), learner, gpu=False), Student(build(MODEL)).requires_grad_(False)

    rl = RLConfig(loops=(8,), estimator=estimator, group=4, drift_weight=1.0, class_drift_weight=1.0)

    def copies(last: int) -> list[str]:
        with stops() as found:
            student.update(replay_loss(MODEL, replace(rl, last=last), learner.batch, student, initial))
        return found

    copies(1)  # the table of the diffusion
    assert copies(1) == copies(2) != []


def test_the_average_follows_without_a_stop():
    parameters = dict(build(MODEL).named_parameters())
    average = EMA(parameters, 0.99)
    with stops() as found:
        average.update(parameters)
    assert not found
