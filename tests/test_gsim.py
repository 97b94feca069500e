"""The generator's loss against closed forms and against plain autograd."""

import math
from dataclasses import replace

import pytest
import torch

from marval_ray.config import GSIMConfig
from marval_ray.diffusion.head import DenoisingHead
from marval_ray.diffusion.samplers import guided
from marval_ray.diffusion.schedule import cosine_diffusion
from marval_ray.distil.gsim import gsim_generator, pseudo_huber

DIFFUSION = cosine_diffusion()
SQUARED = GSIMConfig(distance="squared", k=1.0)


def gaussian_gradients(config, mean=0.7, std=0.6, t=400, draws=400_000):
    """d(loss)/d(mean) for a student N(mean, std^2) and a teacher N(0, 1) with exact scores, in one dimension."""
    generator = torch.Generator().manual_seed(0)
    alpha, sigma = (v.item() for v in DIFFUSION.alpha_sigma(torch.tensor([t])))
    variance = alpha**2 * std**2 + sigma**2

    def student(x, t):
        return sigma * (x - alpha * mean) / variance

    def teacher(x, t):
        return sigma * x  # alpha^2 + sigma^2 = 1

    x_0 = mean + std * torch.randn(draws, 1, generator=generator)
    noise = torch.randn(draws, 1, generator=generator)
    step = gsim_generator(x_0, torch.full((draws,), t), noise, teacher, student, DIFFUSION, config)
    return step.gradient.sum().item(), alpha, variance, mean


def test_l1_plus_l2_is_the_exact_gradient_of_the_divergence():
    got, alpha, variance, mean = gaussian_gradients(SQUARED)
    assert got == pytest.approx(2 * alpha**2 * mean, rel=0.01)


def test_l1_alone_matches_its_closed_form():
    got, alpha, variance, mean = gaussian_gradients(replace(SQUARED, k=0.0))
    assert got == pytest.approx(2 * alpha**2 * mean / variance, rel=0.01)


def test_the_printed_minus_of_equation_a11_would_be_wrong():
    got, alpha, variance, mean = gaussian_gradients(replace(SQUARED, k=-1.0))
    exact = 2 * alpha**2 * mean
    assert got == pytest.approx(exact * (2 / variance - 1), rel=0.02)
    assert abs(got - exact) > 0.1 * exact


def heads(depth=1):
    """Teacher, auxiliary and student heads with random weights, and one condition each."""
    torch.manual_seed(1)
    built = [DenoisingHead(4, 6, 8, depth) for _ in range(3)]
    for head in built:
        for parameter in head.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return built


def problem(rows=32):
    torch.manual_seed(2)
    t = torch.randint(20, 981, (rows,))
    return torch.randn(rows, 4), t, torch.randn(rows, 4), torch.randn(rows, 6), torch.randn(rows, 6)


@pytest.mark.parametrize(
    "config",
    [GSIMConfig(), GSIMConfig(k=-0.4, weighting="sigma2/alpha"), SQUARED, GSIMConfig(detach_l2=True)],
    ids=["paper", "k=-0.4", "squared", "detached"],
)
def test_surrogate_equals_full_autograd_through_frozen_networks(config):
    teacher, auxiliary, student = heads()
    n, t, noise, z, z_null = problem()
    alpha, sigma = DIFFUSION.alpha_sigma(t)

    def student_tokens():
        return 1.244 * n - 0.740 * student(n, torch.full((1,), 400), z)[0]

    def teacher_noise(x, t):
        return guided(teacher(x, t, z)[0], teacher(x, t, z_null)[0], config.w)

    x_t = alpha * student_tokens() + sigma * noise
    s_psi = -auxiliary(x_t, t, z)[0] / sigma
    y = s_psi + teacher_noise(x_t, t) / sigma
    norm = (y.square().sum(-1) + config.huber_radius**2).sqrt()
    if config.distance == "squared":
        distance, slope = y.square().sum(-1), 2 * y
    else:
        distance, slope = norm - config.huber_radius, y / norm[:, None]
    l1 = -(slope * (s_psi + noise / sigma)).sum(-1)
    l2 = distance.detach() if config.detach_l2 else distance
    weight = 1 if config.weighting == "constant" else (sigma**2 / alpha).squeeze(-1)
    expected = torch.autograd.grad((weight * (l1 + config.k * l2)).mean(), list(student.parameters()))

    x_0 = student_tokens()
    step = gsim_generator(x_0, t, noise, teacher_noise, lambda x, t: auxiliary(x, t, z)[0], DIFFUSION, config)
    step.surrogate(x_0).value.backward()
    for parameter, gradient in zip(student.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-5, rtol=1e-4)
    assert all(p.grad is None for head in (teacher, auxiliary) for p in head.parameters())


def test_squared_distance_gives_the_gradient_of_sid_with_alpha_one_half():
    """SiD, arXiv 2404.04057, Eq. 23: (1 - alpha) |y|^2 + y^T (f_psi - x_0) in our scores, here with alpha = 0.5.

    In scores: omega [ (1 - a) y^T y + y^T (grad log p(x_t | x_0) - s_psi) ], with y = s_T - s_psi up to sign.
    """
    teacher, auxiliary, _ = heads()
    x_0, t, noise, z, z_null = problem()
    alpha, sigma = DIFFUSION.alpha_sigma(t)
    x_t = (alpha * x_0 + sigma * noise).requires_grad_()
    s_teacher, s_psi = -teacher(x_t, t, z)[0] / sigma, -auxiliary(x_t, t, z)[0] / sigma
    y = s_teacher - s_psi
    sid = ((1 - 0.5) * y.square() + y * (s_psi + noise / sigma)).sum(-1).mean()
    (expected,) = torch.autograd.grad(sid, x_t)
    step = gsim_generator(
        x_0, t, noise, lambda x, t: teacher(x, t, z)[0], lambda x, t: auxiliary(x, t, z)[0], DIFFUSION, SQUARED
    )
    # With d = |y|^2 both terms carry a factor 2 against SiD's form.
    torch.testing.assert_close(step.gradient, 2 * alpha * expected, atol=1e-5, rtol=1e-4)


def test_detached_l2_with_squared_distance_is_score_implicit_matching():
    """SIM, arXiv 2410.16794: only -d'(y)^T (s_psi - grad log p(x_t | x_0)) is differentiated, so k has no effect."""
    teacher, auxiliary, _ = heads()
    x_0, t, noise, z, _ = problem()
    gradients = [
        gsim_generator(
            x_0, t, noise, lambda x, t: teacher(x, t, z)[0], lambda x, t: auxiliary(x, t, z)[0], DIFFUSION,
            replace(SQUARED, detach_l2=True, k=k),
        ).gradient
        for k in (0.0, 1.0)
    ]  # fmt: skip
    torch.testing.assert_close(gradients[0], gradients[1])


def test_pseudo_huber_slope_is_the_gradient_of_the_distance():
    y = torch.randn(5, 4, requires_grad=True)
    distance, slope = pseudo_huber(y, 0.3)
    (expected,) = torch.autograd.grad(distance.sum(), y)
    torch.testing.assert_close(slope, expected)
    assert pseudo_huber(torch.zeros(1, 4), 1e-5)[0].item() == pytest.approx(0, abs=1e-9)
    assert math.isclose(pseudo_huber(torch.full((1, 4), 2.0), 1e-5)[0].item(), 4.0, rel_tol=1e-4)


@pytest.mark.parametrize("bad", [{"t_min": -1}, {"t_max": 1000}, {"t_min": 500, "t_max": 400}, {"auxiliary_updates": 0}])
def test_contradictions_are_rejected(bad):
    with pytest.raises(ValueError):
        GSIMConfig(**bad)
