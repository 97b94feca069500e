"""Diffusion tables, respacing, the diffusion loss and the number of hidden tokens, where closed forms are known."""

import math

import numpy as np
import pytest
import torch

from marval_ray.diffusion.head import DenoisingHead
from marval_ray.diffusion.loss import diffusion_terms, variational_bits
from marval_ray.diffusion.samplers import Ancestral
from marval_ray.diffusion.schedule import cosine_diffusion, respaced_timesteps
from marval_ray.families.mar.config import ModelConfig
from marval_ray.families.mar.masking import hidden_after_loops

DIFFUSION = cosine_diffusion()


def bits_at_zero(x_0: float, predicted_x_0: float, v: float = 1.0) -> float:
    """The variational term at t = 0 of one channel, when the model predicts `predicted_x_0`."""
    t = torch.zeros(1, dtype=torch.int64)
    alpha, sigma = DIFFUSION.alpha_sigma(t)
    x_t = torch.full((1, 1), 0.3)
    eps = (x_t - alpha * predicted_x_0) / sigma
    x_0, v = torch.full((1, 1), x_0), torch.full((1, 1), v)
    return variational_bits(x_0, x_t, eps, v, t, DIFFUSION).item()


def normal_cdf(u: float) -> float:
    return 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))


@pytest.mark.parametrize("v", [1.0, -1.0, 0.4])
def test_bits_at_zero_are_those_of_a_bin_around_x0(v):
    high = math.log(DIFFUSION.betas[0])
    low = math.log(DIFFUSION.posterior_variance[1])
    std = math.exp(((v + 1) / 2 * high + (1 - v) / 2 * low) / 2)
    u = 1 / 255 / std
    assert bits_at_zero(0.2, 0.2, v) == pytest.approx(-math.log2(normal_cdf(u) - normal_cdf(-u)), abs=1e-3)
    off = -math.log2(normal_cdf(2 * u) - normal_cdf(0))
    assert bits_at_zero(0.2, 0.2 - 1 / 255, v) == pytest.approx(off, abs=1e-3)


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_the_outermost_bins_are_open(side):
    assert bits_at_zero(side, 2 * side) == pytest.approx(0, abs=1e-4)
    u = 1 / 255 / math.sqrt(DIFFUSION.betas[0])
    assert bits_at_zero(side, side) == pytest.approx(-math.log2(normal_cdf(u)), abs=1e-3)


def test_bits_at_zero_are_bounded():
    assert bits_at_zero(0.0, 5.0) == pytest.approx(-math.log2(1e-12), abs=1e-3)


def test_bits_vanish_where_the_model_is_the_posterior():
    t = torch.tensor([1, 20, 999])
    x_0, noise = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)).unbind()
    alpha, sigma = DIFFUSION.alpha_sigma(t)
    # v = -1 selects the posterior's variance. At t = 999 rounding of x_t / alpha_t limits the agreement.
    bits = variational_bits(x_0, alpha * x_0 + sigma * noise, noise, -torch.ones(3, 5), t, DIFFUSION)
    assert bits.abs().max() < 1e-3


def test_the_variational_term_teaches_only_v():
    torch.manual_seed(0)
    head = DenoisingHead(channels=3, condition_width=8, width=16, depth=1)
    torch.nn.init.normal_(head.final_layer.linear.weight)
    x_0, noise = torch.randn(2, 4, 3).unbind()
    terms = diffusion_terms(head, x_0, torch.randn(4, 8), torch.tensor([0, 5, 300, 900]), noise, DIFFUSION)
    of_vb, of_mse = (
        torch.autograd.grad(term.sum(), head.final_layer.linear.weight, retain_graph=True)[0]
        for term in (terms.vb, terms.mse)
    )
    assert of_vb[:3].abs().max() == 0 and of_vb[3:].abs().min() > 0
    assert of_mse[3:].abs().max() == 0 and of_mse[:3].abs().min() > 0


def test_alpha_and_sigma_lie_on_the_unit_circle():
    alpha, sigma = DIFFUSION.alpha_sigma(torch.arange(1000))
    assert alpha.dtype == torch.float32
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(1000, 1))
    assert (alpha.diff(dim=0) < 0).all()


def test_respacing_rounds_half_to_even():
    assert respaced_timesteps(3).tolist() == [0, 500, 999]  # 499.5
    assert respaced_timesteps(7).tolist() == [0, 166, 333, 500, 666, 832, 999]  # 166.5, 499.5, 832.5


def test_respacing_sums_its_stride():
    """10 * 49.95 is 499.5 and rounds to 500; ten additions of 49.95 stay just below."""
    assert round(10 * (999 / 20)) == 500
    assert respaced_timesteps(21)[10] == 499


@pytest.mark.parametrize("steps", [1, 2, 25, 100, 250, 999, 1000])
def test_respaced_tables_keep_alpha_of_the_kept_timesteps(steps):
    respaced = cosine_diffusion(steps)
    assert len(respaced) == steps and (respaced.timesteps.diff() > 0).all()
    expected = DIFFUSION.alphas_cumprod[respaced.timesteps]
    torch.testing.assert_close(respaced.alphas_cumprod, expected, rtol=1e-10, atol=1e-15)


def test_tables_are_built_once_and_serve_learning_after_drawing():
    with torch.inference_mode():
        drawn_with = cosine_diffusion(17)
    assert cosine_diffusion(17) is drawn_with
    alpha, sigma = drawn_with.alpha_sigma(torch.tensor([3, 5]))
    noise = torch.ones(2, 1, requires_grad=True)
    (slope,) = torch.autograd.grad((noise * sigma / alpha).sum(), noise)
    assert torch.equal(slope, sigma / alpha) and not drawn_with.betas.is_inference()


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_an_impossible_number_of_steps_is_refused(steps):
    with pytest.raises(ValueError, match=f"1..1000, got {steps}"):
        cosine_diffusion(steps)


def test_hidden_tokens_of_a_short_schedule():
    assert hidden_after_loops(16, 4) == [14, 11, 6, 0]
    assert hidden_after_loops(256, 1) == [0]


def test_hidden_tokens_of_a_power():
    """floor(64 (1 - u^p)) for u = 1/4, 2/4, 3/4."""
    assert hidden_after_loops(64, 4, reveal=3.5) == [63, 58, 40, 0]
    assert hidden_after_loops(64, 4, reveal=1.0) == [48, 32, 16, 0]
    assert hidden_after_loops(64, 3, reveal=40.0) == [63, 62, 0]


@pytest.mark.parametrize("reveal", [0.0, -1.0, math.inf, math.nan])
def test_powers_that_reveal_nothing_or_all_are_refused(reveal):
    with pytest.raises(ValueError, match="reveal must be a number above 0"):
        ModelConfig(student_reveal=reveal)
    with pytest.raises(ValueError, match="reveal must be a number above 0"):
        Ancestral(reveal=reveal)


def test_each_loop_reveals_a_token_until_one_is_left():
    """With many loops the cosine alone would reveal one token in the first loop and no other until the 15th."""
    assert {math.floor(16 * math.cos(math.pi / 2 * (k + 1) / 64)) for k in range(14)} == {15}
    assert hidden_after_loops(16, 64) == [*range(15, 0, -1), *[1] * 48, 0]


@pytest.mark.parametrize("tokens", [16, 64, 256])
def test_hidden_tokens_equal_the_published_rounding(tokens):
    """floor(L cos) in numpy's float64, then limits in float32, for every number of loops up to 256."""
    for loops in range(1, 257):
        ratios = np.cos(math.pi / 2.0 * np.arange(1, loops) / loops)
        hidden, expected = tokens, []
        for ratio in ratios:
            hidden = int(max(np.float32(1), min(np.float32(hidden - 1), np.float32(np.floor(tokens * ratio)))))
            expected.append(hidden)
        assert hidden_after_loops(tokens, loops) == [*expected, 0]


def test_no_loops_are_refused():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        hidden_after_loops(16, 0)
