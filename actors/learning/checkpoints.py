"""Checkpoints of a learner in Ray Train: written by all ranks together, read back only when they are whole."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import ray.train
import torch.distributed as dist

from actors.learning.learner import Learner
from marval_ray.files.checksums import damage, write_checksums


def checkpoint(learner: Learner, step: int) -> None:
    """Save; every rank hands in its part. Ray Train merges them and makes the whole known only when all are there."""
    with tempfile.TemporaryDirectory() as folder:
        learner.save(Path(folder), step)
        write_checksums(Path(folder), str(learner.rank))
        ray.train.report({"step": step}, checkpoint=ray.train.Checkpoint.from_directory(folder))


def restore(learner: Learner) -> int:
    """Load the run's last whole checkpoint, and return the number of finished updates: 0 when it has none.

    Raises ValueError when it has some and all are damaged.
    """
    found = []
    for candidate in newest_first():
        with candidate.as_directory() as folder:
            problem = damage_of(Path(folder))
            if problem is None:
                return learner.load(Path(folder))
        found.append(f"{candidate.path}: {problem}")
        if learner.rank == 0:
            print(f"{found[-1]}; going on from the checkpoint before it", flush=True)
    if found:
        raise ValueError(f"no checkpoint is whole ({'; '.join(found)}): bring one back, or start anew with --overwrite")
    return 0


def newest_first() -> Iterator[ray.train.Checkpoint]:
    """Yield the checkpoints that Ray Train keeps; the older ones are looked up only when they are asked for."""
    last = ray.train.get_checkpoint()
    if last is not None:
        yield last
        reported = [kept.checkpoint for kept in ray.train.get_all_reported_checkpoints()]
        yield from sorted((kept for kept in reported if kept.path != last.path), key=lambda kept: kept.path, reverse=True)


def damage_of(folder: Path) -> str | None:
    """Tell what rank 0 finds wrong, on every rank: they have to load the same one."""
    told = [damage(folder) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(told, src=0)
    return told[0]
