"""Pictures drawn in a Ray task equal those drawn here."""

from dataclasses import replace

import pytest
import ray
import torch

from actors.crew.painter import Elsewhere
from marval_ray.embedded import assets_index
from marval_ray.families.generate import student_generation
from marval_ray.families.mar.checkpoint import load_model
from marval_ray.families.mar.codec import load_vae


@pytest.fixture
def cluster():
    with ray.init(num_cpus=1, num_gpus=1):  # a GPU by name only: the task then draws on the CPU
        yield


def test_images_come_from_where_the_gpu_is(cluster):
    here = student_generation(load_model(assets_index.STUDENT).eval(), load_vae(assets_index.VAE), loops=2)
    there = Elsewhere.of(here, gpus=0.5)
    labels = torch.arange(4)
    assert (there.images(labels, 1) - here.images(labels, 1)).abs().max() < 1e-4
    other = replace(there, loops=8)
    assert isinstance(other, Elsewhere) and not torch.allclose(other.images(labels, 1), here.images(labels, 1), atol=0.1)
