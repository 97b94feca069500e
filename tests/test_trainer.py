"""The learner under Ray Train: real workers, real DeepSpeed."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from chaos import alive
from safetensors.torch import load_file
from small import MODEL, largest_gap, write_random_latents, write_teacher

from actors.learning.gsim import GSIMRun, Matching
from actors.learning.trainer import LearnerError, train
from actors.resources import check_resources, resources
from marval_ray.config import GSIMConfig, LearnerConfig
from marval_ray.files.storage import Storage
from marval_ray.runs.stage import read_metrics


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with ray.init(num_cpus=4):
        yield


@pytest.fixture
def run(tmp_path) -> GSIMRun:
    learner = LearnerConfig(steps=4, batch=4, lr=1e-3, auxiliary_lr=1e-3, ema=0.9, log_every=1, checkpoint_every=2)
    teacher, latents = write_teacher(tmp_path / "teacher"), write_random_latents(tmp_path / "latents.parquet")
    return GSIMRun(MODEL, Matching(GSIMConfig(), teacher, latents), learner)


def trained(run: GSIMRun, folder: Path) -> dict:
    """The averaged student after training in `folder`."""
    folder.mkdir(exist_ok=True)
    return load_file(train(run, Storage.of(str(folder))) / "ema.safetensors")


def test_a_stopped_run_goes_on_to_the_same_numbers(run, tmp_path):
    whole = trained(run, tmp_path / "whole")
    trained(with_learner(run, seconds=0.0), tmp_path / "parts")
    assert [row["step"] for row in read_metrics(tmp_path / "parts" / "metrics.jsonl")] == [1]
    assert largest_gap(whole, trained(run, tmp_path / "parts")) == 0
    rows = read_metrics(tmp_path / "parts" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert {"generator/loss", "auxiliary/mse", "images_per_second", "skipped"} <= rows[0].keys()
    assert list((tmp_path / "parts" / "tensorboard" / "gsim").glob("events*"))


@pytest.mark.slow
def test_a_killed_worker_is_restarted_to_the_same_numbers(run, tmp_path):
    run = with_learner(run, steps=40, checkpoint_every=10)
    whole = trained(run, tmp_path / "whole")
    with ThreadPoolExecutor(1) as background:
        result = background.submit(trained, run, tmp_path / "killed")
        wait_for_step(tmp_path / "killed" / "metrics.jsonl", 15)
        (worker,) = alive("RayTrainWorker")
        os.kill(worker, signal.SIGKILL)
        assert largest_gap(whole, result.result(timeout=200)) == 0
    assert [row["step"] for row in read_metrics(tmp_path / "killed" / "metrics.jsonl")] == list(range(1, 41))


def wait_for_step(path: Path, step: int, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not path.exists() or len(path.read_text(encoding="utf-8").splitlines()) < step:
        assert time.monotonic() < end, f"{path} does not get to step {step}"
        time.sleep(0.05)


def test_a_run_that_diverges_ends_with_a_reason(run, tmp_path):
    broken = replace(run, matching=replace(run.matching, teacher=write_teacher(tmp_path / "broken", broken=True)))
    with pytest.raises(LearnerError, match="not finite .* lower learner.lr"):
        trained(with_learner(broken, steps=20, max_bad_steps=2), tmp_path / "run")


def with_learner(run: GSIMRun, **changes) -> GSIMRun:
    return replace(run, learner=replace(run.learner, **changes))


def test_actors_that_do_not_fit_are_refused_before_they_would_wait():
    nodes = [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 3.0}]
    check_resources({"learner": [{"CPU": 2.0}] * 3}, nodes)
    check_resources({"learner": [{"CPU": 2.0}] * 2, "rollout": [{"CPU": 1.0, "GPU": 0.5}] * 2}, nodes)
    check_resources({"learner": [resources(1, 0.4)], "others": [resources(0.5, 0.2)] * 3}, [{"CPU": 4.0, "GPU": 1.0}])  # exactly
    with pytest.raises(ValueError, match=r"4 learner of {'CPU': 2.0} do not fit: 2 node.* no room for learner after 3"):
        check_resources({"learner": [{"CPU": 2.0}] * 4}, nodes)
    with pytest.raises(ValueError, match=r"no room for reward after 1"):
        check_resources({"learner": [{"CPU": 2.0, "GPU": 1.0}], "reward": [{"CPU": 1.0, "GPU": 0.5}] * 2}, nodes)
    marked = [{"CPU": 2.0}, {"CPU": 2.0, "rollout": 1.0}]
    check_resources({"learner": [resources(2, 0)], "rollout": [resources(1, 0, "rollout")] * 2}, marked)
    with pytest.raises(ValueError, match="no room for rollout"):
        check_resources({"rollout": [resources(1, 0, "rollout")] * 3}, marked)
