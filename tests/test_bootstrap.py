"""Errors of mean scores over prompts, against closed forms, and what is said of differences."""

import pytest
import torch

from marval_ray.evaluation.bootstrap import mean_and_error, reward_figures
from marval_ray.evaluation.claims import PairedDifference


def scores_of(counts: list[int], between: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of images that vary by 1 within their prompts, whose means vary by `between`; and the numbers of the prompts, mixed."""
    generator = torch.Generator().manual_seed(seed)
    prompts = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    prompts = prompts[torch.randperm(len(prompts), generator=generator)]
    levels = between * torch.randn(len(counts), generator=generator)
    return levels[prompts] + torch.randn(len(prompts), generator=generator), 7 * prompts


@pytest.mark.parametrize(("groups", "between"), [(10, 2.0), (10, 0.0), (300, 1.0)])
def test_the_error_of_balanced_prompts_is_that_of_their_means(groups, between):
    scores, prompts = scores_of([25] * groups, between)
    means = torch.stack([scores[prompts == prompt].double().mean() for prompt in prompts.unique()])
    mean, error = mean_and_error(scores, prompts)
    assert mean == pytest.approx(means.mean().item(), rel=1e-6)
    assert error == pytest.approx(means.std().item() / groups**0.5, rel=0.06)  # four times the noise of 2,000 resamples


def test_the_error_of_unequal_prompts_is_that_of_a_ratio():
    """sum_g (s_g - n_g mean)^2 over N^2, to first order, with G / (G - 1)."""
    scores, prompts = scores_of([1, 3, 10, 30] * 50, between=1.0)
    mean, error = mean_and_error(scores, prompts)
    residuals = torch.stack([(scores[prompts == prompt].double() - mean).sum() for prompt in prompts.unique()])
    assert error == pytest.approx((residuals.square().sum() * 200 / 199).sqrt().item() / len(scores), rel=0.08)


def test_images_of_one_prompt_are_no_independent_witnesses():
    scores, prompts = scores_of([25] * 40, between=2.0)
    assert mean_and_error(scores, prompts)[1] > 3 * mean_and_error(scores, torch.arange(len(scores)))[1]


def test_scores_far_from_zero_keep_their_digits_and_one_prompt_tells_no_error():
    scores, prompts = scores_of([5] * 20, between=1.0)
    assert mean_and_error(scores.double() + 1e9, prompts)[1] == pytest.approx(mean_and_error(scores, prompts)[1], rel=1e-5)
    assert mean_and_error(scores, torch.zeros_like(prompts)) == (pytest.approx(scores.mean().item()), None)


def test_figures_are_named_after_rewards():
    scores, prompts = scores_of([5] * 20, between=1.0)
    found = reward_figures({"clip": scores}, prompts)
    assert found == {"prompts": 20, "reward/clip": scores.double().mean().item(), "reward/clip_se": mean_and_error(scores, prompts)[1]}
    assert reward_figures({}, prompts) == {}


def test_paired_images_tell_what_apart_ones_do_not():
    """The noise that both models share drops out: a gain of 0.3 where images vary by 2."""
    scores, prompts = scores_of([25] * 10, between=2.0)
    gain = 0.3 + 0.1 * torch.randn(len(scores), generator=torch.Generator().manual_seed(1))
    better = PairedDifference.of("clip", 8, ("old", "new"), scores - (scores + gain), prompts)
    assert better.said().startswith("clip at N_AR = 8: new is better than old (0.3")
    assert "250 images of 10 prompts" in better.said() and better.mean < 0 and better.error < 0.02
    assert mean_and_error(scores, prompts)[1] > gain.mean()
    for nothing in (0 * gain, gain - gain.mean(), gain[:1].repeat(2)):
        labels = prompts[: len(nothing)] if len(nothing) > 2 else torch.zeros(2, dtype=torch.int64)
        assert "are not told apart" in PairedDifference.of("clip", 8, ("old", "new"), nothing, labels).said()
