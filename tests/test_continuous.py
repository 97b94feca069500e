"""Continuous batching gives each image as if it were alone."""

import random

import pytest
import torch
from small import wish

from marval_ray.embedded import assets_index
from marval_ray.families.base import Wish
from marval_ray.families.mar.batching import advance, begin
from marval_ray.hub.layout import load_model

WISHES = [
    wish(0, 1, 0, 64), wish(3, 1, 1, 8), wish(9, 5, 0, 1), wish(3, 7, 2, 16), wish(5, 5, 0, 2), wish(7, 2**40, 0, 64), wish(1, 0, 0, 5),
    wish(8, 3, 9, 33),
]  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return load_model(assets_index.STUDENT).eval()


@torch.inference_mode()
def alone(model, asked: Wish) -> torch.Tensor:
    *_, tokens = model.config.family.reveal(model, model.one_step, asked.prompt.labels, asked.draws, asked.loops)
    return tokens.values[0]


def test_images_that_enter_and_leave_at_any_time_equal_those_drawn_alone(model):
    rng, waiting, active, done, wishes = random.Random(0), list(WISHES), [], [], {}
    while waiting or active:
        if waiting and (not active or rng.random() < 0.5):
            asked = waiting.pop()
            active.append(begin(asked, model))
            wishes[active[-1]] = asked
        rng.shuffle(active)
        advance(active)
        done += [drawing for drawing in active if drawing.finished]
        active = [drawing for drawing in active if not drawing.finished]
    assert len(done) == len(WISHES)
    for drawing in done:
        gap = (drawing.values - alone(model, wishes[drawing])).abs().max()
        assert gap < 1e-3, wishes[drawing]  # float32, through up to 64 loops; a grey level is about 8e-3


def test_temperature_scales_the_noise(model):
    hot, cold = (begin(wish(3, 1, loops=1, temperature=t), model) for t in (1.0, 0.5))
    assert torch.equal(cold.noise, 0.5 * hot.noise)
    advance([hot])
    advance([cold])
    assert cold.values.std() < hot.values.std()
