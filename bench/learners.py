"""What learners do in an update, with random weights of a preset's sizes, for benches that time it."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from sampling import random_model

from actors.learning.gsim import GSIMLearner, GSIMRun, Matching
from marval_ray.config import LearnerConfig
from marval_ray.device import autocast_on_gpu
from marval_ray.distil.student import Student
from marval_ray.draws import Draws
from marval_ray.families.mar.config import ModelConfig
from marval_ray.families.mar.loop import Randomness, recorded_loops
from marval_ray.files.latent_files import write_latents
from marval_ray.hub.layout import save_model
from marval_ray.presets import MAR_MODELS, PRESETS
from marval_ray.reinforce.replay import replay_chain


@contextmanager
def gsim_update(preset: str, batch: int, device: torch.device) -> Iterator[Callable[[], object]]:
    """Give one update of both networks, with DeepSpeed: it wants a process group."""
    c = MAR_MODELS[preset]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        save_model(folder, "teacher", random_model(c, device).state_dict(), c, torch.float32)
        latents = torch.randn(batch, *c.latent_shape).numpy()
        write_latents(folder / "latents.parquet", latents, 0 * latents, np.arange(batch) % c.num_classes)
        matching = Matching(PRESETS[preset].gsim, folder / "teacher.safetensors", folder / "latents.parquet")
        learner = GSIMLearner(GSIMRun(c, matching, LearnerConfig(batch=batch)), device)
    yield lambda: learner.step(0)


def replay_update(c: ModelConfig, batch: int, loops: int, last: int, device: torch.device) -> Callable[[], None]:
    """Return forward and backward pass of the last loops of a rollout, as RL's learner does them, without its optimiser."""
    student = Student(random_model(c, device)).requires_grad_()
    random = Randomness.of(Draws(0, tuple(range(batch))), c.num_tokens, c.token_channels, 0).to(device)
    labels = torch.arange(batch, device=device) % c.num_classes
    recorded = list(recorded_loops(random.initial, labels, random, loops))[-last:]

    def replay() -> None:
        with autocast_on_gpu(device):
            tokens, _ = replay_chain(student, random.initial, recorded)
        tokens.square().mean().backward()
        student.zero_grad()

    return replay
