"""The GSIM learner under Ray Train: worker group, checkpoints, restart of lost workers."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from torch import Tensor

from actors.learner import GSIMLearner, GSIMRun, NonFiniteError
from actors.recorder import recorder_actor
from marval_ray.config import LearnerConfig


class LearnerError(ValueError):
    """The run cannot go on; the message says what to change."""


def train_gsim(run: GSIMRun, folder: Path) -> Path:
    """Train until `run.learner.steps`, from the last checkpoint in `folder` if there is one.

    Returns the folder of the last checkpoint. Raises LearnerError when the learner gave up, and
    ray.train.TrainingFailedError when workers were lost more often than `max_failures`.
    """
    recorder = recorder_actor(folder, run.learner.steps)
    trainer = ray.train.torch.TorchTrainer(
        train_loop,
        train_loop_config={"run": run, "recorder": recorder},
        scaling_config=scaling(run.learner),
        run_config=ray.train.RunConfig(
            name="train",
            storage_path=str(folder.absolute()),
            failure_config=ray.train.FailureConfig(max_failures=run.learner.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
        ),
    )
    result = trainer.fit()
    failure: str | None = ray.get(recorder.finish.remote())
    if failure:
        raise LearnerError(failure)
    assert result.checkpoint is not None  # the last update writes one
    return Path(result.checkpoint.path)


def scaling(config: LearnerConfig) -> ray.train.ScalingConfig:
    return ray.train.ScalingConfig(
        num_workers=config.workers, use_gpu=config.gpus_per_worker > 0, resources_per_worker=demand(config)
    )


def demand(config: LearnerConfig) -> dict[str, float]:
    """Resources of one worker."""
    gpus = {"GPU": float(config.gpus_per_worker)} if config.gpus_per_worker else {}
    return {"CPU": float(config.cpus_per_worker)} | gpus


def check_resources(config: LearnerConfig, nodes: list[dict[str, float]]) -> None:
    """Raise ValueError unless all workers fit into `nodes` (resources of each live node).

    A worker group that does not fit would wait for ever.
    """
    need = demand(config)
    room = sum(int(min(node.get(name, 0) // amount for name, amount in need.items())) for node in nodes)
    if room < config.workers:
        have = {name: sum(node.get(name, 0) for node in nodes) for name in need}
        raise ValueError(
            f"learner.workers {config.workers} of {need} each do not fit: {len(nodes)} node(s) with {have} in all "
            f"hold {room}; lower --learner.workers, --learner.cpus-per-worker or --learner.gpus-per-worker, or add nodes"
        )


def node_resources() -> list[dict[str, float]]:
    """Resources of each live node of the cluster."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def train_loop(config: dict) -> None:
    """What every worker of the group runs."""
    run, recorder = config["run"], config["recorder"]
    if not torch.cuda.is_available():
        torch.set_num_threads(run.learner.cpus_per_worker)
    learner = GSIMLearner(run, ray.train.torch.get_device())
    step = restore(learner)
    chief = dist.get_rank() == 0
    if chief:
        ray.get(recorder.begin.remote(step))
    try:
        for log in updates(learner, step, run.learner):
            if chief:
                recorder.log.remote(*log)
    except NonFiniteError as error:
        # A restart from the checkpoint would meet the same numbers again: no failure for Ray Train to retry.
        ray.get(recorder.fail.remote(str(error)))


def updates(learner: GSIMLearner, start: int, config: LearnerConfig) -> Iterator[tuple[int, dict[str, float]]]:
    """Run the updates `start`..; yield (finished updates, metrics) every `log_every`, and checkpoint on the way."""
    window: list[dict[str, Tensor]] = []
    began = time.perf_counter()
    for step in range(start, config.steps):
        window.append(learner.step(step))
        done = step + 1
        if done % config.log_every == 0 or done == config.steps:
            rate = len(window) * config.batch * config.workers / (time.perf_counter() - began)
            yield done, averages(window) | {"images_per_second": rate, "skipped": float(learner.skipped)}
            window, began = [], time.perf_counter()
        if done % config.checkpoint_every == 0 or done == config.steps:
            checkpoint(learner, done)


def averages(window: list[dict[str, Tensor]]) -> dict[str, float]:
    """Mean over updates and ranks."""
    names = list(window[0])
    values = torch.stack([torch.stack([metrics[name].float() for name in names]) for metrics in window]).mean(0)
    dist.all_reduce(values)
    return dict(zip(names, (values / dist.get_world_size()).tolist()))


def checkpoint(learner: GSIMLearner, step: int) -> None:
    """Every rank hands in its part; Ray Train merges them and makes the whole known only when all are there."""
    with tempfile.TemporaryDirectory() as folder:
        learner.save(Path(folder), step)
        ray.train.report({"step": step}, checkpoint=ray.train.Checkpoint.from_directory(folder))


def restore(learner: GSIMLearner) -> int:
    """Load the run's last checkpoint; the number of finished updates."""
    last = ray.train.get_checkpoint()
    if last is None:
        return 0
    with last.as_directory() as folder:
        return learner.load(Path(folder))
