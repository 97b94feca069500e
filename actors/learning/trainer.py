"""A learner under Ray Train: worker group, checkpoints, restart of lost workers."""

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from torch import Tensor

from actors.errors import WorkerError, answer, sentence, whole
from actors.learning.checkpoints import checkpoint, restore
from actors.learning.learner import Learner, NonFiniteError
from actors.patience import CalledOff
from actors.recorder import error_log, recorder_actor
from actors.resources import resources
from actors.screen import watched
from actors.signals import Stopped, handled
from marval_ray.config import LearnerConfig
from marval_ray.files.storage import Storage
from marval_ray.runs.stage import GSIM, RL, Stage

RECORDER = "the recorder"


class LearnerError(ValueError):
    """The run cannot go on; the message says what to change."""


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
        answer(self.recorder.push.remote(), RECORDER)


def train(run: Run, storage: Storage, stage: Stage = GSIM) -> Path:
    """Train until `run.learner.steps`, from the last checkpoint in `storage` if there is one.

    Returns a folder with the last checkpoint. Raises LearnerError when the learner gave up or workers failed more often than
    `max_failures`, and Stopped after SIGTERM or Ctrl-C.
    """
    table = stage == RL and sys.stdout.isatty()
    recorder = recorder_actor(storage, run.learner.steps, stage, bar=not table)
    trainer = ray.train.torch.TorchTrainer(
        train_loop,
        train_loop_config={"run": run, "recorder": recorder},
        scaling_config=scaling(run.learner),
        run_config=ray.train.RunConfig(
            name=stage.checkpoints,
            storage_path=storage.checkpoints,
            callbacks=[Push(recorder)],  # type: ignore[list-item]  # mypy takes the class of Train v1
            failure_config=ray.train.FailureConfig(max_failures=run.learner.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
        ),
    )
    with watched(recorder, run.learner.steps) if table else nullcontext():
        try:
            result = fit(trainer, recorder)
        except ray.train.TrainingFailedError as error:
            answer(recorder.fail.remote(sentence(culprit(error)), whole(error)), RECORDER)
    failure: str | None = answer(recorder.finish.remote(), RECORDER)
    if failure:
        saved = f"what was saved is in {storage}: cure the cause, then --resume"
        raise LearnerError(f"stage {stage.name} failed: {failure} (more in {error_log(storage)}); {saved}")
    number: signal.Signals | None = answer(recorder.stopping.remote(), RECORDER)
    if number:
        raise Stopped(number, f"stopped on {number.name} in stage {stage.name}; --resume continues from the checkpoint in {storage}")
    assert result.checkpoint is not None  # the last update writes one
    if storage.uri is None:
        return Path(result.checkpoint.path)
    return Path(result.checkpoint.to_directory(storage.folder / f"last-{stage.name}"))


def culprit(error: BaseException) -> BaseException:
    """Go down to what a worker of Ray Train, or its controller, raised."""
    match error:
        case ray.train.WorkerGroupError() if error.worker_failures:
            return culprit(error.worker_failures[min(error.worker_failures)])
        case ray.train.ControllerError():
            return culprit(error.controller_failure)
    return error


def fit(trainer: ray.train.torch.TorchTrainer, recorder: Any) -> ray.train.Result:
    """Train until the end, or until the checkpoint that SIGTERM or Ctrl-C asks for; a second one ends it at once.

    In a thread of its own, since Ray Train would take Ctrl-C to itself for good in the main one.
    """
    result: Future[ray.train.Result] = Future()

    def work() -> None:
        try:
            result.set_result(trainer.fit())
        except (ray.train.TrainingFailedError, ray.exceptions.RayError) as error:
            result.set_exception(error)

    asked: list[signal.Signals] = []

    def ask(number: signal.Signals) -> None:
        if asked:
            raise Stopped(number, f"{number.name} again: ended at once; --resume continues from the last checkpoint, if there is one")
        asked.append(number)
        print(f"{number.name}: ending after the update under way, with a checkpoint", file=sys.stderr, flush=True)
        recorder.stop.remote(number)

    threading.Thread(target=work, daemon=True).start()
    with handled(ask):
        return result.result()


def scaling(config: LearnerConfig) -> ray.train.ScalingConfig:
    return ray.train.ScalingConfig(
        num_workers=config.workers, use_gpu=config.gpus_per_worker > 0, resources_per_worker=demand(config)
    )


def demand(config: LearnerConfig) -> dict[str, float]:
    """Return the resources of one worker."""
    return resources(config.cpus_per_worker, config.gpus_per_worker, config.node)


def train_loop(config: dict) -> None:
    """Do what every worker of the group does."""
    run, recorder = config["run"], config["recorder"]
    if answer(recorder.failed.remote(), RECORDER):
        return  # Ray Train restarted the group only because one rank had to leave the others
    try:
        learn(run, recorder)
    except (NonFiniteError, ValueError, OSError) as error:
        # A restart from the checkpoint would meet the same again: no failure for Ray Train to retry.
        answer(recorder.fail.remote(sentence(error), whole(error)), RECORDER)
        if dist.get_world_size() > 1 and not isinstance(error, (NonFiniteError, WorkerError)):  # those come on all ranks
            raise


@dataclass(frozen=True)
class Leave:
    """Why to end before the last update: `config.seconds` are over, or somebody asked to stop. The same on all ranks."""

    over: bool
    asked: bool


def learn(run: Run, recorder: Any) -> None:
    """Do one rank's part, from the last checkpoint on."""
    if not torch.cuda.is_available():
        torch.set_num_threads(run.learner.threads_per_worker or run.learner.cpus_per_worker)
    learner = run.make(ray.train.torch.get_device())
    chief = dist.get_rank() == 0
    step = restore(learner)
    learner.stopping = lambda: answer(recorder.stopping.remote(), RECORDER)
    learner.begin(step)
    if chief:
        answer(recorder.begin.remote(step), RECORDER)
        show(learner, recorder)

    seconds, began = run.learner.seconds, time.monotonic()

    def leave() -> Leave:
        over = seconds is not None and time.monotonic() - began > seconds
        said = torch.tensor([float(chief and over), float(chief and bool(learner.stopping()))], device=learner.device)
        dist.all_reduce(said)
        return Leave(*(bool(value) for value in said))

    for log in updates(learner, step, run.learner, leave):
        if chief:
            show(learner, recorder)
            recorder.log.remote(*log)


def show(learner: Learner, recorder: Any) -> None:
    """Hand over the pictures that the learner has to show."""
    while learner.pictures:
        recorder.show.remote(*learner.pictures.popitem())


def updates(
    learner: Learner, start: int, config: LearnerConfig, leave: Callable[[], Leave]
) -> Iterator[tuple[int, dict[str, float]]]:
    """Run the updates `start`..; yield (finished updates, metrics) every `log_every`, and checkpoint on the way.

    Ends with a checkpoint after the last update, and earlier when the learner is done or `leave` says so.
    """
    if learner.done or start >= config.steps:
        checkpoint(learner, start)  # Ray Train's result holds what this run reports
        return
    window: list[dict[str, Tensor]] = []
    began = time.perf_counter()
    for step in range(start, config.steps):
        try:
            window.append(learner.step(step))
        except CalledOff:
            checkpoint(learner, step)
            return
        done = step + 1
        left = leave()
        ended = done == config.steps or left.over
        if ended and not learner.done:
            window[-1] |= learner.end(done)
        last = ended or learner.done or left.asked
        if done % config.log_every == 0 or last:
            rate = len(window) * config.batch * config.workers / (time.perf_counter() - began)
            yield done, averages(window, learner.device) | {"images_per_second": rate, "skipped": float(learner.skipped)}
            window, began = [], time.perf_counter()
        if done % config.checkpoint_every == 0 or last:
            checkpoint(learner, done)
        if last:
            return


def averages(window: list[dict[str, Tensor]], device: torch.device) -> dict[str, float]:
    """Return the mean over ranks and over the updates that have the metric."""
    names = list(dict.fromkeys(name for metrics in window for name in metrics))
    means = [torch.stack([metrics[name].float() for metrics in window if name in metrics]).mean() for name in names]
    values = torch.stack([mean.to(device) for mean in means])
    dist.all_reduce(values)
    return dict(zip(names, (values / dist.get_world_size()).tolist()))
