"""Continuous batching gives each image as if it were alone."""

import random

import pytest
import torch

from marval_ray.diffusion.samplers import OneStep
from marval_ray.embedded import assets_index
from marval_ray.families.mar.batching import Wish, advance, begin
from marval_ray.families.mar.checkpoint import load_model
from marval_ray.families.mar.loop import Draws, sample_tokens

WISHES = [
    Wish(0, 1, 0, 64), Wish(3, 1, 1, 8), Wish(9, 5, 0, 1), Wish(3, 7, 2, 16), Wish(5, 5, 0, 2), Wish(7, 2**40, 0, 64), Wish(1, 0, 0, 5),
    Wish(8, 3, 9, 33),
]  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return load_model(assets_index.STUDENT).eval()


@torch.inference_mode()
def alone(model, wish: Wish) -> torch.Tensor:
    c = model.config
    draws = Draws.from_seed(wish.seed, [wish.index], c.num_tokens, c.token_channels, 0)
    return sample_tokens(model, OneStep(c.student_timestep), torch.tensor([wish.label]), draws, wish.loops)[0]


def test_images_that_enter_and_leave_at_any_time_equal_those_drawn_alone(model):
    rng, waiting, active, done = random.Random(0), list(WISHES), [], []
    while waiting or active:
        if waiting and (not active or rng.random() < 0.5):
            active.append(begin(waiting.pop(), model))
        rng.shuffle(active)
        advance(active)
        done += [drawing for drawing in active if drawing.finished]
        active = [drawing for drawing in active if not drawing.finished]
    assert len(done) == len(WISHES)
    for drawing in done:
        gap = (drawing.tokens - alone(model, drawing.wish)).abs().max()
        assert gap < 1e-3, drawing.wish  # float32, through up to 64 loops; a grey level is about 8e-3


def test_temperature_scales_the_noise(model):
    hot, cold = (begin(Wish(3, 1, loops=1, temperature=t), model) for t in (1.0, 0.5))
    assert torch.equal(cold.noise, 0.5 * hot.noise)
    advance([hot])
    advance([cold])
    assert cold.tokens.std() < hot.tokens.std()
