"""Records a run where the driver is: metrics.jsonl, TensorBoard, Ray's metrics, a progress bar."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import ray
from jaxtyping import UInt8
from ray.experimental import tqdm_ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch.utils.tensorboard import SummaryWriter

from actors.errors import whole, write_down
from actors.prometheus import StageSeries
from marval_ray.files.atomic import atomic_path
from marval_ray.files.storage import ERRORS, Storage
from marval_ray.runs.looks import LOOKS, save_look
from marval_ray.runs.stage import GSIM, Stage, read_metrics


class Recorder:
    """Writes what a learner reports into `storage`. Metrics are numbers by name; steps count finished updates.

    bar: whether to draw a progress bar.
    """

    def __init__(self, storage: Storage, total: int, stage: Stage = GSIM, bar: bool = True):
        self.storage, self.total, self.stage = storage, total, stage
        self.bar = tqdm_ray.tqdm(desc=stage.name, total=total, unit="step") if bar else None
        self.path = storage.folder / stage.metrics
        self.step, self.shown = 0, dict[str, float]()
        self.series = StageSeries(stage.name)
        self.board: SummaryWriter | None = None
        self.failure: str | None = None
        self.asked_to_stop: signal.Signals | None = None

    def begin(self, step: int) -> None:
        """Start, or start again, after `step` updates: what was recorded beyond them will be done again."""
        kept = [row for row in read_metrics(self.path) if row["step"] <= step] if self.path.exists() else []
        with atomic_path(self.path) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        self.board = SummaryWriter(str(self.storage.folder / "tensorboard" / self.stage.name), purge_step=step + 1)
        self._advance(step)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        with self._ending_on_failure("metrics"):
            self._write(step, metrics)
        self.series.set(metrics)
        self.shown |= metrics  # held-out figures come now and then
        self._advance(step)

    def _write(self, step: int, metrics: dict[str, float]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")
        assert self.board is not None  # begin came first
        for name, value in metrics.items():
            self.board.add_scalar(name, value, step)

    def show(self, step: int, pictures: UInt8[np.ndarray, "P H W C"]) -> None:
        """Keep pictures of the student after `step` updates."""
        assert self.board is not None  # begin came first
        with self._ending_on_failure("pictures"):
            save_look(self.storage.folder, step, pictures)
            self.board.add_images("held out", pictures, step, dataformats="NHWC")

    @contextmanager
    def _ending_on_failure(self, what: str) -> Iterator[None]:
        """Have the run end when these cannot be written: nobody waits for the calls that write them."""
        try:
            yield
        except OSError as error:
            self.fail(f"{what} cannot be written: {error}", whole(error))
            self.stop(signal.SIGTERM)

    def push(self) -> None:
        """Bring what was recorded to where the checkpoints are."""
        if self.board is None:  # nothing was recorded yet
            return
        self.board.flush()
        looks = [LOOKS] if (self.storage.folder / LOOKS).exists() else []
        self.storage.push(self.path.name, "tensorboard", *looks)

    def _advance(self, step: int) -> None:
        if self.bar is not None:
            texts = [f"{short} {self.shown[name]:.3g}" for name, short in self.stage.shown.items() if name in self.shown]
            self.bar.set_description(" ".join([self.stage.name, *texts]))
            self.bar.update(step - self.step)
        self.step = step

    def latest(self) -> tuple[int, dict[str, float]]:
        """Return the finished updates, and the last value of each metric."""
        return self.step, self.shown

    def stop(self, number: signal.Signals) -> None:
        """Ask the learner to end after the update that it is at, with a checkpoint."""
        self.asked_to_stop = number

    def stopping(self) -> signal.Signals | None:
        """Return the signal on which the learner has to end."""
        return self.asked_to_stop

    def fail(self, message: str, details: str) -> None:
        """Note why the learner gave up, of several reasons the first. `details` go to the error log."""
        self.failure = self.failure or message
        write_down(error_log(self.storage), details)

    def failed(self) -> bool:
        """Tell whether the learner gave up."""
        return self.failure is not None

    def finish(self) -> str | None:
        """Close the files; return the failure, if there was one."""
        if self.bar is not None:
            self.bar.close()
        if self.board is not None:
            self.board.close()
        return self.failure


def error_log(storage: Storage) -> Path:
    """Tell where the whole of an error goes whose sentence a run ends with."""
    return storage.folder / ERRORS


def recorder_actor(storage: Storage, total: int, stage: Stage = GSIM, bar: bool = True) -> Any:
    """Start a recorder on the driver's own node, where the run's folder or working copy is."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Recorder).options(num_cpus=0, scheduling_strategy=here).remote(storage, total, stage, bar)
