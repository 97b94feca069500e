"""Learners of two ranks under each ZeRO stage, in two processes without Ray."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from small import MODEL, largest_gap, write_random_latents, write_teacher

from actors.learning.gsim import GSIMLearner, GSIMRun, Matching
from actors.learning.learner import AVERAGE
from marval_ray.config import GSIMConfig, LearnerConfig
from marval_ray.files.tensors import read_state

RANKS, STAGES, STEPS = 2, (0, 1, 2, 3), 4


def rank_of(rank: int, run: GSIMRun, folder: Path) -> None:
    """One rank's part in training under every stage, one after the other."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(RANKS)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=RANKS)
    for stage in STAGES:
        learner = GSIMLearner(replace(run, learner=replace(run.learner, zero_stage=stage)), torch.device("cpu"))
        for step in range(STEPS):
            learner.step(step)
        learner.save(folder / str(stage), STEPS)
    dist.destroy_process_group()


@pytest.mark.slow
def test_zero_stages_with_two_ranks_equal_stage_0(tmp_path):
    """Adam divides by the gradient's size, so sums in another order show up where it is near zero: compared with how
    far the weights went, the gap is small."""
    teacher, latents = write_teacher(tmp_path / "teacher"), write_random_latents(tmp_path / "latents.parquet")
    learner = LearnerConfig(steps=STEPS, batch=4, lr=1e-3, auxiliary_lr=1e-3, ema=0.9, workers=RANKS)
    torch.multiprocessing.spawn(rank_of, (GSIMRun(MODEL, Matching(GSIMConfig(), teacher, latents), learner), tmp_path), nprocs=RANKS)
    plain, *sharded = (load_file(tmp_path / str(stage) / AVERAGE) for stage in STAGES)
    start = {name: value for name, value in read_state(teacher).items() if name in plain}
    for result in sharded:
        assert largest_gap(plain, result) < 0.01 * largest_gap(plain, start)
