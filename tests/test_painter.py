"""Pictures drawn in a Ray task equal those drawn here."""

import pytest
import ray
import torch

from actors.crew.painter import RemotePainter
from marval_ray.embedded import assets_index
from marval_ray.families.generation import student_generation
from marval_ray.hub.layout import load_model
from marval_ray.types import Prompts


@pytest.fixture
def cluster():
    with ray.init(num_cpus=1, num_gpus=1):  # a GPU by name only: the task then draws on the CPU
        yield


def test_images_come_from_where_the_gpu_is(cluster):
    model = load_model(assets_index.STUDENT).eval()
    here = student_generation(model, model.config.family.codec(assets_index.VAE, model.config), loops=2)
    there = RemotePainter(here, gpus=0.5)
    prompts = Prompts.of_labels(torch.arange(4))
    assert (there.images(prompts, 1) - here.images(prompts, 1)).abs().max() < 1e-4
    other = there.with_loops(8)
    assert isinstance(other, RemotePainter) and not torch.allclose(other.images(prompts, 1), here.images(prompts, 1), atol=0.1)
