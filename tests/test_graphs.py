"""When loops are drawn by CUDA graphs. What the graphs draw is a matter of tests/test_gpu.py."""

import pytest
import torch
from small import MODEL

from marval_ray.diffusion.samplers import OneStep
from marval_ray.draws import Draws
from marval_ray.families.mar.graphs import Graphs
from marval_ray.families.mar.loop import Randomness
from marval_ray.families.mar.model import MAR

SAMPLER = OneStep(400)


@pytest.fixture
def model():
    return MAR(MODEL).eval()


def batch(size: int) -> tuple[torch.Tensor, Randomness]:
    return torch.zeros(size, dtype=torch.long), Randomness.of(Draws(0, tuple(range(size))), MODEL.num_tokens, MODEL.token_channels, 0)


def test_a_size_has_graphs_from_its_second_batch_on(model):
    graphs = Graphs()
    assert graphs.of(model, SAMPLER, *batch(4)) is None
    found = graphs.of(model, SAMPLER, *batch(4))
    assert found is not None and graphs.of(model, SAMPLER, *batch(4)) is found


def test_sizes_and_samplers_have_graphs_of_their_own(model):
    graphs = Graphs()
    for sampler, size in ((SAMPLER, 4), (SAMPLER, 3), (OneStep(300), 4)):
        assert graphs.of(model, sampler, *batch(size)) is None
    assert graphs.of(model, SAMPLER, *batch(4)) is not graphs.of(model, SAMPLER, *batch(3))


def test_weights_may_change_in_place_but_not_move(model):
    graphs = Graphs()
    graphs.of(model, SAMPLER, *batch(4))
    found = graphs.of(model, SAMPLER, *batch(4))
    model.load_state_dict({name: value + 1 for name, value in model.state_dict().items()})
    assert graphs.of(model, SAMPLER, *batch(4)) is found
    model.load_state_dict({name: value.clone() for name, value in model.state_dict().items()}, assign=True)
    assert graphs.of(model, SAMPLER, *batch(4)) is None
