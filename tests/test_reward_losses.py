"""Reinforcement learning's gradients against plain autograd and closed forms."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from small import MODEL, write_teacher

from marval_ray.config import ObjectiveConfig
from marval_ray.diffusion.samplers import Exploring
from marval_ray.distil.student import Student
from marval_ray.draws import Draws
from marval_ray.embedded import assets_index
from marval_ray.families.base import RecordedLoop
from marval_ray.families.mar.codec import KLCodec
from marval_ray.families.mar.loop import Randomness, plan_loops, recorded_loops, run_loop, sample_tokens
from marval_ray.hub.layout import load_model
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
from marval_ray.reinforce.objective import Objective
from marval_ray.reinforce.replay import replay_apart, replay_chain
from marval_ray.reinforce.scoring import Scorer
from marval_ray.types import Prompts, Rollout, Scored, Tokens

LABELS = torch.tensor([0, 1, 2])
PROMPTS = Prompts(("even", "odd", "even"), LABELS)
FAMILY = MODEL.family
LOOPS = 6


class Harmony:
    """A reward that is no linear function of the image, with a prompt that matters."""

    differentiable = True

    def __call__(self, images, prompts):
        sign = torch.tensor([1.0 if "even" in prompt else -1.0 for prompt in prompts])
        return sign * (3 * images).sin().mean((1, 2, 3)) + images.square().mean((1, 2, 3))


@pytest.fixture
def student(tmp_path) -> Student:
    return Student(load_model(write_teacher(tmp_path), MODEL))


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer(KLCodec.read(assets_index.VAE, MODEL), Harmony())


DRAWS = Draws(0, (0, 1, 2))


def rollout_of(student: Student, sampler) -> Rollout:
    with torch.no_grad():
        *_, tokens = FAMILY.reveal(student.backbone, sampler, LABELS, DRAWS, LOOPS)
    return Rollout(tokens, PROMPTS, DRAWS, LOOPS, 0, 0)


def recorded(rollout: Rollout, sampler, last: int = LOOPS) -> list[RecordedLoop]:
    return list(FAMILY.recorded(rollout, rollout.prompts.labels, sampler, LOOPS))[-last:]


def rewards(scorer: Scorer, tokens: torch.Tensor) -> torch.Tensor:
    """With gradient through decoder and reward."""
    return scorer.reward(scorer.codec.decode(Tokens(tokens)), PROMPTS.texts)


def random_of(draws: Draws = DRAWS, noise_steps: int = 0) -> Randomness:
    return Randomness.of(draws, MODEL.num_tokens, MODEL.token_channels, noise_steps)


def gradients(loss, module) -> torch.Tensor:
    module.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])


@pytest.mark.parametrize("recompute", [True, False])
def test_replay_of_all_loops_equals_back_propagation_through_loops_decoder_and_reward(student, scorer, recompute):
    sampler = MODEL.one_step
    tokens = sample_tokens(student.backbone, sampler, LABELS, random_of(), LOOPS)
    whole = gradients(-rewards(scorer, tokens).mean(), student)
    rollout = rollout_of(student, sampler)
    scored = scorer(rollout.tokens, PROMPTS)
    replayed, _ = replay_chain(student, rollout.tokens.values, recorded(rollout, sampler), recompute)
    assert torch.allclose(replayed, rollout.tokens.values, atol=1e-6)
    parts = gradients(pathwise(replayed, scored.gradient, torch.ones(3)).value, student)
    assert (whole - parts).norm() < 1e-5 * whole.norm()


def test_gradients_are_the_same_bits_each_time():
    """With two threads, and as many tokens as PyTorch needs to share an indexed sum among them in the order of the day."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    model = load_model(assets_index.STUDENT)
    c, batch, student = model.config, 40, Student(model)
    random = Randomness.of(Draws(0, tuple(range(batch))), c.num_tokens, c.token_channels, 0)
    loops = list(recorded_loops(random.initial, torch.arange(batch) % c.num_classes, random, 2))

    def gradients() -> list[torch.Tensor]:
        tokens, _ = replay_chain(student, random.initial, loops)
        return list(torch.autograd.grad(tokens.square().mean(), [p for n, p in student.named_parameters() if "embed" in n]))

    first = gradients()
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(first, gradients(), strict=True))
    torch.set_num_threads(threads)


@pytest.mark.parametrize("last", [1, 3])
def test_replay_of_some_loops_equals_autograd_with_the_prefix_detached(student, scorer, last):
    random, sampler = random_of(), MODEL.one_step
    tokens = torch.zeros_like(random.initial)
    plan = list(plan_loops(random.orders, LOOPS))
    for index, loop in enumerate(plan):
        tokens = run_loop(student.backbone, sampler, tokens, LABELS, loop, random)
        if index == len(plan) - 1 - last:
            tokens = tokens.detach()
    expected = gradients(-rewards(scorer, tokens).mean(), student)
    rollout = rollout_of(student, sampler)
    replayed, loops = replay_chain(student, rollout.tokens.values, recorded(rollout, sampler, last))
    assert len(loops) == last
    got = gradients(pathwise(replayed, scorer(rollout.tokens, PROMPTS).gradient, torch.ones(3)).value, student)
    assert (expected - got).norm() < 1e-5 * expected.norm()


def test_score_gradients_belong_to_their_own_image(scorer):
    tokens = Tokens(torch.randn(3, MODEL.num_tokens, MODEL.token_channels, generator=torch.Generator().manual_seed(0)))
    together = scorer(tokens, PROMPTS)
    alone = scorer(tokens[1:2], PROMPTS[1:2])
    assert torch.allclose(together.score[1:2], alone.score, atol=1e-6)
    assert torch.allclose(together.gradient[1:2], alone.gradient, atol=1e-7)


def test_images_that_are_not_finite_are_told_apart():
    gradient = torch.zeros(3, 2, 2)
    gradient[1, 0, 0] = torch.nan
    scored = Scored(torch.tensor([0.0, 1.0, torch.inf]), gradient)
    assert scored.finite().tolist() == [True, False, False]
    assert Scored(scored.score, None).finite().tolist() == [True, True, False]


def test_saturation_is_the_slope_of_the_saturating_reward():
    score = torch.linspace(-3, 5, 9, dtype=torch.double).requires_grad_()
    value = -0.5 * torch.nn.functional.softplus((1.0 - score) / 0.5)
    (slope,) = torch.autograd.grad(value.sum(), score)
    assert torch.allclose(saturation(score, 1.0, 0.5), slope)


@pytest.mark.parametrize("offset", [0.0, 20.0, 1e4, -1e5])
def test_the_spread_of_scores_does_not_depend_on_their_size(offset):
    score = offset + torch.randn(64, generator=torch.Generator().manual_seed(0))
    mean, std = mean_and_std(score, lambda sums: None)
    assert mean == pytest.approx(score.double().mean().item())
    assert std == pytest.approx(score.double().std(correction=0).item(), rel=1e-5)
    assert mean_and_std(score, lambda sums: sums.mul_(2)) == pytest.approx((mean, std))  # another rank has the same scores
    assert mean_and_std(score[:0], lambda sums: None) is None


def test_drift_is_the_divergence_of_unit_gaussians():
    a, b = torch.randn(2, 5, 3, dtype=torch.double)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(a, 1.0), normal(b, 1.0)).sum(-1).mean()
    assert torch.allclose(drift(a, b), expected)


def test_the_shift_of_a_class_is_what_its_predictions_have_in_common():
    """Differences that cancel within each class and position cost nothing; a common one has the gradient of its square."""
    torch.manual_seed(0)
    shift = ClassShift(classes=3, length=4, channels=2, device=torch.device("cpu"))
    labels, places = torch.tensor([0, 0, 2, 2]), torch.tensor([[1, 3], [1, 3], [0, 2], [0, 2]])
    cells = shift.cells(labels, places)
    assert cells.tolist() == [1, 3, 1, 3, 8, 10, 8, 10]
    own = torch.randn(2, 1, 2, 2)
    common = torch.tensor([0.5, -1.0])
    for difference, expected in ((torch.cat([own, -own], 1), torch.zeros(2)), (common.expand(2, 2, 2, 2), common)):
        for _ in range(60):  # until the running mean has arrived
            shift.update(shift.sums(cells, difference.reshape(8, 2)))
        assert torch.allclose(shift.mean[cells.unique()], expected.expand(4, 2), atol=1e-4)
        prediction = torch.zeros(8, 2, requires_grad=True)
        (gradient,) = torch.autograd.grad(shift.penalty(cells, prediction), prediction)
        assert torch.allclose(gradient, expected.expand(8, 2) / 8, atol=1e-5)
    assert not shift.mean[[0, 2, 4, 5, 6, 7, 9, 11]].any()  # never met


def test_the_running_shift_is_the_same_however_ranks_share_the_batch():
    torch.manual_seed(0)
    cells, difference = torch.randint(12, (30,)), torch.randn(30, 2)
    whole, shared = (ClassShift(3, 4, 2, torch.device("cpu")) for _ in range(2))
    whole.update(whole.sums(cells, difference))
    shared.update(sum(shared.sums(cells[part], difference[part]) for part in torch.arange(30).split(10)))
    assert torch.allclose(whole.mean, shared.mean, atol=1e-6)


def test_the_importance_ratio_is_that_of_the_densities(student):
    std = 0.3
    sampler = Exploring(MODEL.one_step, std)
    for replayed in replay_apart(student, recorded(rollout_of(student, sampler), sampler)):
        action, explored = replayed.recorded.drawn, replayed.recorded.explored
        assert torch.allclose(action, replayed.prediction + std * explored, atol=1e-5)
        old_mean = action - std * explored
        assert log_ratio(action, replayed.prediction, old_mean, std).abs().max() < 1e-3
        moved = replayed.prediction + 0.1
        normal = torch.distributions.Normal
        expected = (normal(moved, std).log_prob(action) - normal(replayed.prediction, std).log_prob(action)).sum(-1)
        assert torch.allclose(log_ratio(action, moved, old_mean, std), expected, atol=1e-3)


def test_the_ratio_is_one_for_a_replay_that_rounds_otherwise_than_its_rollout(student):
    """Rollouts of a GPU are drawn with bfloat16 weights. With the recorded noise, rounding looks like a change of the policy."""
    std = 0.03
    sampler, rounded = Exploring(MODEL.one_step, std), Student(copy.deepcopy(student.backbone).bfloat16())
    (replayed,) = replay_apart(student, recorded(rollout_of(rounded, sampler), sampler, last=1))
    action, explored, mean = replayed.recorded.drawn, replayed.recorded.explored, replayed.prediction
    by_noise = log_ratio(action, mean, action - std * explored, std)
    own = log_ratio(action, mean, mean.detach(), std)
    assert by_noise.exp().std() > 0.01 and torch.equal(own.exp(), torch.ones(len(own)))

    advantages = torch.randn(len(own), generator=torch.Generator().manual_seed(1))
    loss = clipped_policy(own, advantages, clip=0.2)
    density = torch.distributions.Normal(mean, std).log_prob(action).sum(-1)
    got, expected = (torch.autograd.grad(x, mean, retain_graph=True)[0] for x in (loss.value, -(advantages * density).mean()))
    torch.testing.assert_close(got, expected)
    assert loss.metrics["ratio"] == 1 and loss.metrics["clipped"] == 0


def test_images_of_a_group_start_alike_and_explore_apart():
    alone, grouped = (random_of(Draws(5, tuple(range(6)), group), noise_steps=1) for group in (1, 3))
    for drawn, own in ((grouped.orders, alone.orders), (grouped.initial, alone.initial)):
        assert all(torch.equal(drawn[i], own[i - i % 3]) for i in range(6))
    assert torch.equal(grouped.steps, alone.steps) and not torch.equal(grouped.steps[:, 0], grouped.steps[:, 1])


def test_later_updates_of_a_batch_know_the_weights_that_drew_it(student):
    """The ratio is 1 at the first update, after it that of the densities before and after."""
    rl = ObjectiveConfig(loops=(LOOPS,), last=LOOPS, estimator="policy", exploration=0.3, group=3, epochs=2)
    objective = Objective(MODEL, rl, None, seed=0, device=torch.device("cpu"), add_up=lambda sums: None)
    rollout = replace(rollout_of(student, objective.sampler), version=4)
    scored = Scored(torch.tensor([0.0, 1.0, 2.0]), None)
    loops = recorded(rollout, objective.sampler)
    density = torch.distributions.Normal
    drawn = torch.cat([loop.drawn for loop in loops])

    def means() -> torch.Tensor:
        with torch.no_grad():
            return torch.cat([loop.prediction for loop in replay_apart(student, loops)])

    before = means()
    first = objective.loss(student, 4, rollout, scored)
    assert first.metrics["ratio"] == 1
    first.value.backward()
    with torch.no_grad():
        for parameter in student.parameters():
            if parameter.grad is not None:
                parameter -= 0.01 * parameter.grad / parameter.grad.norm().clamp(min=1e-12)
    second = objective.loss(student, 4, rollout, scored)
    ratio = (density(means(), 0.3).log_prob(drawn) - density(before, 0.3).log_prob(drawn)).sum(-1).exp().mean()
    torch.testing.assert_close(second.metrics["ratio"], ratio)
    assert ratio != 1


def test_several_updates_of_a_batch_are_refused_without_a_ratio():
    with pytest.raises(ValueError, match="rl.epochs above 1 needs rl.estimator policy or codes"):
        Objective(MODEL, ObjectiveConfig(epochs=2), None, 0, torch.device("cpu"), lambda sums: None)


def test_clipping_stops_the_gradient_where_the_ratio_has_gone_far_enough():
    logs = torch.tensor([0.0, 0.5, -0.5, 0.5, -0.5], requires_grad=True)
    advantages = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0])
    loss = clipped_policy(logs, advantages, clip=0.2)
    (slope,) = torch.autograd.grad(loss.value, logs)
    # Up with a good token and down with a bad one stop at the edge; the way back does not.
    assert [bool(value) for value in slope] == [True, False, True, True, False]
    assert loss.metrics["clipped"].item() == pytest.approx(0.8)


def test_advantages_compare_within_a_group():
    score = torch.tensor([1.0, 3.0, 10.0, 10.0, 5.0, torch.nan])
    good = score.isfinite()
    assert group_advantages(score, good, 2).tolist() == pytest.approx([-1, 1, 0, 0, 0, 0], abs=1e-5)


def test_policy_gradient_finds_the_optimum_of_a_black_box_reward(student):
    """The reward is best where the mean of an image's tokens is 0.7; its gradient is not used."""
    std, group, steps = 0.3, 16, 60
    labels = torch.zeros(32, dtype=torch.long)
    sampler = Exploring(MODEL.one_step, std)
    optimizer = torch.optim.Adam(student.parameters(), 3e-3)

    def roll(step: int):
        draws = Draws(1, tuple(range(step * 32, step * 32 + 32)))
        with torch.no_grad():
            *_, tokens = FAMILY.reveal(student.backbone, sampler, labels, draws, LOOPS)
        return Rollout(tokens, Prompts.of_labels(labels), draws, LOOPS, step, 0)

    def distance(rollout: Rollout):
        return (rollout.tokens.values.mean((1, 2)) - 0.7).abs()

    before = distance(roll(1000)).mean()
    for step in range(steps):
        rollout = roll(step)
        advantages = group_advantages(-distance(rollout), torch.ones(32, dtype=torch.bool), group)
        for replayed in replay_apart(student, recorded(rollout, sampler)):
            action = replayed.recorded.drawn
            logs = log_ratio(action, replayed.prediction, action - std * replayed.recorded.explored, std)
            clipped_policy(logs, advantages.repeat_interleave(replayed.context.hidden.shape[1]), 0.2).value.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert distance(roll(1000)).mean() < 0.3 * before


def test_the_price_of_codes_is_their_divergence():
    log_probs = torch.tensor([[0.5, 0.5], [0.9, 0.1]]).log()
    initial = torch.tensor([[0.5, 0.5], [0.5, 0.5]]).log()
    expected = 0.5 * (0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5))
    assert code_drift(log_probs, initial).item() == pytest.approx(expected)
