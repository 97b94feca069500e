"""The GSIM learner in one process, without Ray."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from small import MODEL, write_random_latents, write_teacher

from actors.learning.engine import deepspeed, engine_config, make_engine, set_trained, update, whole_parameters
from actors.learning.gsim import GSIMLearner, GSIMRun, Matching
from actors.learning.learner import NonFiniteError
from marval_ray.adapters import adapted_layers, add_adapters
from marval_ray.config import GSIMConfig, LearnerConfig
from marval_ray.distil.student import Student
from marval_ray.hub.layout import load_model

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("process_group")


@pytest.fixture
def run(tmp_path) -> GSIMRun:
    learner = LearnerConfig(steps=4, batch=4, lr=1e-3, auxiliary_lr=1e-3, ema=0.9, max_bad_steps=2)
    teacher, latents = write_teacher(tmp_path / "teacher"), write_random_latents(tmp_path / "latents.parquet")
    return GSIMRun(MODEL, Matching(GSIMConfig(), teacher, latents), learner)


def weights(learner: GSIMLearner) -> dict[str, torch.Tensor]:
    """All that is learnt."""
    named = {f"student.{n}": p for n, p in learner.student.module.named_parameters()}
    named |= {f"auxiliary.{n}": p for n, p in learner.matcher.auxiliary.module.named_parameters()}
    named |= {f"ema.{n}": p for n, p in learner.ema.shadow.items()}
    return {name: value.detach().clone() for name, value in named.items()}


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_an_update_moves_student_auxiliary_and_average_but_not_the_teacher(run):
    learner = GSIMLearner(run, CPU)
    before = weights(learner)
    metrics = learner.step(0)
    after = weights(learner)
    assert all(value.isfinite() for value in metrics.values())
    for part in ("student", "auxiliary", "ema"):
        assert any(not torch.equal(before[n], after[n]) for n in before if n.startswith(part)), part
    assert same(dict(learner.matcher.teacher.state_dict()), load_model(run.matching.teacher).state_dict())


@pytest.mark.parametrize("auxiliary_updates", [1, 2])
def test_a_resumed_run_equals_the_one_that_never_stopped(run, tmp_path, auxiliary_updates):
    run = replace(run, matching=replace(run.matching, gsim=GSIMConfig(auxiliary_updates=auxiliary_updates)))
    whole = GSIMLearner(run, CPU)
    for step in range(4):
        whole.step(step)
    first = GSIMLearner(run, CPU)
    for step in range(2):
        first.step(step)
    first.save(tmp_path / "checkpoint", 2)
    second = GSIMLearner(run, CPU)
    start = second.load(tmp_path / "checkpoint")
    assert start == 2 and same(weights(first), weights(second))
    for step in range(start, 4):
        second.step(step)
    assert same(weights(whole), weights(second))


def test_updates_that_are_not_finite_are_skipped_and_end_the_run(run, tmp_path):
    teacher = write_teacher(tmp_path / "broken", broken=True)
    learner = GSIMLearner(replace(run, matching=replace(run.matching, teacher=teacher)), CPU)
    before = weights(learner)
    learner.step(0)
    assert learner.skipped == 1 and same(before, weights(learner))
    with pytest.raises(NonFiniteError, match=r"2 updates in a row .* update 1\); lower learner.lr"):
        learner.step(1)


class Decayed(torch.nn.Module):
    """A layer in bf16 under autocast, and the square of its weights in float32: their gradient is no bf16 number."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)

    def forward(self, x):
        y = self.layer(x)
        assert y.dtype == torch.bfloat16
        return y.float().mean() + self.layer.weight.square().sum()


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_gradients_and_weights_stay_float32_under_autocast(stage):
    """As on a GPU, where ZeRO would send those of Linear layers in bf16."""
    torch.manual_seed(0)
    module = Decayed()
    weight = module.layer.weight.detach().clone()
    x = torch.ones(1, 3)
    config = engine_config(LearnerConfig(batch=1, grad_clip=0, zero_stage=stage), 1e-3, autocast=True)
    engine, *_ = deepspeed.initialize(model=module, model_parameters=list(module.parameters()), config=config)
    engine.backward(engine(x))
    gradient = deepspeed.utils.safe_get_full_grad(module.layer.weight)
    torch.testing.assert_close(gradient, 0.5 + 2 * weight, rtol=1e-6, atol=0)
    with whole_parameters(engine, module) as parameters:
        assert torch.equal(parameters["layer.weight"], weight)


def adapted_engine(run: GSIMRun, stage: int) -> tuple[deepspeed.DeepSpeedEngine, Callable[[], object]]:
    """A student's engine that trains adapters, and what takes an update of it."""
    backbone = load_model(run.matching.teacher)
    add_adapters(backbone, 2, seed=0)
    engine = make_engine(Student(backbone), replace(run.learner, zero_stage=stage), 1e-3, CPU)
    context = MODEL.family.contexts(run.matching.data, MODEL, 0, 1).batch(0, 1, 4, torch.Generator().manual_seed(1))
    noise = torch.randn(context.hidden.numel(), MODEL.token_channels, generator=torch.Generator().manual_seed(2))
    return engine, lambda: update(engine, engine(context, noise).square().mean(), 1e-2)


@pytest.mark.parametrize("stage", [0, 3])
def test_adapters_alone_are_trained_and_saved_and_whole_weights_come_of_them(run, tmp_path, stage):
    engine, step = adapted_engine(run, stage)
    step()
    engine.save_checkpoint(str(tmp_path), tag="x")
    step()
    again, step_again = adapted_engine(run, stage)
    again.load_checkpoint(str(tmp_path), tag="x")
    step_again()
    start = load_model(run.matching.teacher).state_dict()
    with whole_parameters(engine, engine.module.backbone) as whole, whole_parameters(again, again.module.backbone) as resumed:
        assert same(whole, resumed)
        moved = {name for name in whole if not torch.equal(whole[name], start[name])}
    assert whole.keys() == start.keys() and moved == {f"{name}.weight" for name in adapted_layers(load_model(run.matching.teacher), 2)}


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_weights_that_are_set_are_seen_at_once_and_learn_on(stage):
    layer = torch.nn.Linear(3, 2)
    layer.bias.requires_grad_(False)
    engine = make_engine(layer, LearnerConfig(batch=1, zero_stage=stage), 1e-3, CPU)

    def seen_after(lr: float | None = None) -> list[float]:
        if lr is not None:
            update(engine, engine(torch.ones(1, 3)).sum(), lr)
        with whole_parameters(engine, engine.module) as parameters:
            return parameters["weight"].flatten().tolist()

    seen_after(1e-3)
    set_trained(engine, engine.module, {"weight": torch.full((2, 3), 7.0)})
    assert seen_after() == seen_after(0.0) == [7.0] * 6
    assert seen_after(0.5) == pytest.approx([6.5] * 6)


def test_learning_rate_follows_the_config(run):
    config = replace(run.learner, warmup=2, lr_end=0.0)
    assert [config.lr_factor(step) for step in (0, 1, 2)] == pytest.approx([0.5, 0.8535534, 0.5])
    assert [replace(config, lr_end=0.4).lr_factor(step) for step in (0, 1, 2)] == pytest.approx([0.5, 0.9121320, 0.7])
    learner = GSIMLearner(replace(run, learner=config), CPU)
    learner.step(0)
    assert learner.student.optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * config.lr)
