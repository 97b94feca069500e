"""A learner under Ray Train: worker group, checkpoints, restart of lost workers."""

import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from torch import Tensor

from actors.learner import Learner, NonFiniteError
from actors.pool import WorkerLostError
from actors.recorder import recorder_actor
from actors.resources import resources
from actors.screen import watched
from marval_ray.config import LearnerConfig
from marval_ray.storage import Storage


class LearnerError(ValueError):
    """The run cannot go on; the message says what to change."""


class Stopped(Exception):
    """SIGTERM came, and a checkpoint was written."""


class Run(Protocol):
    """What defines a run, and makes the learner of a rank."""

    @property
    def learner(self) -> LearnerConfig: ...

    def make(self, device: torch.device) -> Learner: ...


class Push(ray.train.UserCallback):
    """Has the recorder bring its files to where each checkpoint went."""

    def __init__(self, recorder: Any):
        self.recorder = recorder

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: ray.train.Checkpoint | None) -> None:
        ray.get(self.recorder.push.remote())


def train(run: Run, storage: Storage, stage: str = "gsim") -> Path:
    """Train until `run.learner.steps`, from the last checkpoint in `storage` if there is one.

    Returns a folder with the last checkpoint. Raises LearnerError when the learner gave up or workers failed more often than
    `max_failures`, and Stopped after SIGTERM.
    """
    table = stage == "rl" and sys.stdout.isatty()
    recorder = recorder_actor(storage, run.learner.steps, stage, bar=not table)
    trainer = ray.train.torch.TorchTrainer(
        train_loop,
        train_loop_config={"run": run, "recorder": recorder},
        scaling_config=scaling(run.learner),
        run_config=ray.train.RunConfig(
            name="train" if stage == "gsim" else f"train-{stage}",
            storage_path=storage.checkpoints,
            callbacks=[Push(recorder)],  # type: ignore[list-item]  # mypy takes the class of Train v1
            failure_config=ray.train.FailureConfig(max_failures=run.learner.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
        ),
    )
    with on_sigterm(recorder.stop.remote), watched(recorder, run.learner.steps) if table else nullcontext():
        try:
            result = trainer.fit()
        except ray.train.TrainingFailedError as error:
            cause = ray.get(recorder.finish.remote()) or last_line(error)
            raise LearnerError(f"stage {stage} failed: {cause}; what was saved is in {storage}: cure the cause, then --resume") from error
    failure: str | None = ray.get(recorder.finish.remote())
    if failure:
        raise LearnerError(failure)
    if ray.get(recorder.stopping.remote()):
        raise Stopped(f"stopped on SIGTERM in stage {stage}; --resume continues from the checkpoint in {storage}")
    assert result.checkpoint is not None  # the last update writes one
    if storage.uri is None:
        return Path(result.checkpoint.path)
    return Path(result.checkpoint.to_directory(storage.folder / f"last-{stage}"))


def last_line(error: Exception) -> str:
    """What a traceback in text ends with."""
    return [line for line in str(error).splitlines() if line.strip()][-1]


@contextmanager
def on_sigterm(ask: Callable[[], object]) -> Iterator[None]:
    """Call `ask` when SIGTERM comes (`ray job stop` sends it), from a thread: Ray may be at work in this one."""
    if threading.current_thread() is not threading.main_thread():  # the only one that Python lets handle signals
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=ask).start())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def scaling(config: LearnerConfig) -> ray.train.ScalingConfig:
    return ray.train.ScalingConfig(
        num_workers=config.workers, use_gpu=config.gpus_per_worker > 0, resources_per_worker=demand(config)
    )


def demand(config: LearnerConfig) -> dict[str, float]:
    """Resources of one worker."""
    return resources(config.cpus_per_worker, config.gpus_per_worker, config.node)


def train_loop(config: dict) -> None:
    """What every worker of the group runs."""
    run, recorder = config["run"], config["recorder"]
    if not torch.cuda.is_available():
        torch.set_num_threads(run.learner.threads_per_worker or run.learner.cpus_per_worker)
    learner = run.make(ray.train.torch.get_device())
    step = restore(learner)
    learner.begin(step)
    chief = dist.get_rank() == 0
    if chief:
        ray.get(recorder.begin.remote(step))

    seconds, began = run.learner.seconds, time.monotonic()

    def stopping() -> bool:
        over = seconds is not None and time.monotonic() - began > seconds
        asked = torch.tensor(float(chief and (over or ray.get(recorder.stopping.remote()))), device=learner.device)
        dist.all_reduce(asked)
        return bool(asked)

    try:
        for log in updates(learner, step, run.learner, stopping):
            if chief:
                recorder.log.remote(*log)
    except (NonFiniteError, WorkerLostError) as error:
        # A restart from the checkpoint would meet the same numbers again: no failure for Ray Train to retry.
        ray.get(recorder.fail.remote(str(error)))


def updates(
    learner: Learner, start: int, config: LearnerConfig, stopping: Callable[[], bool]
) -> Iterator[tuple[int, dict[str, float]]]:
    """Run the updates `start`..; yield (finished updates, metrics) every `log_every`, and checkpoint on the way.

    Ends with a checkpoint after the last update, and earlier when the learner is done or `stopping` says so.
    """
    if learner.done or start >= config.steps:
        checkpoint(learner, start)  # Ray Train's result holds what this run reports
        return
    window: list[dict[str, Tensor]] = []
    began = time.perf_counter()
    for step in range(start, config.steps):
        window.append(learner.step(step))
        done = step + 1
        last = done == config.steps or learner.done or stopping()
        if done % config.log_every == 0 or last:
            rate = len(window) * config.batch * config.workers / (time.perf_counter() - began)
            yield done, averages(window, learner.device) | {"images_per_second": rate, "skipped": float(learner.skipped)}
            window, began = [], time.perf_counter()
        if done % config.checkpoint_every == 0 or last:
            checkpoint(learner, done)
        if last:
            return


def averages(window: list[dict[str, Tensor]], device: torch.device) -> dict[str, float]:
    """Mean over ranks and over the updates that have the metric."""
    names = list(dict.fromkeys(name for metrics in window for name in metrics))
    means = [torch.stack([metrics[name].float() for metrics in window if name in metrics]).mean() for name in names]
    values = torch.stack([mean.to(device) for mean in means])
    dist.all_reduce(values)
    return dict(zip(names, (values / dist.get_world_size()).tolist()))


def checkpoint(learner: Learner, step: int) -> None:
    """Every rank hands in its part; Ray Train merges them and makes the whole known only when all are there."""
    with tempfile.TemporaryDirectory() as folder:
        learner.save(Path(folder), step)
        ray.train.report({"step": step}, checkpoint=ray.train.Checkpoint.from_directory(folder))


def restore(learner: Learner) -> int:
    """Load the run's last checkpoint; the number of finished updates."""
    last = ray.train.get_checkpoint()
    if last is None:
        return 0
    with last.as_directory() as folder:
        return learner.load(Path(folder))
