"""Latents of ImageNet's size in training: time to start, memory, and the share of a learner's time that it waits for them.

    python bench/latents.py
    python bench/latents.py --gigabytes 1 --parquet

Random latents of MAR's shape, in as many groups as ImageNet with flips has (2.56 million images, 42 GB). For each state of the page
cache a new process, as one rank, opens them and draws batches; the update between two batches is a pause. The cache is emptied of this
file alone (posix_fadvise). With --parquet, the same from Parquet, which is read into memory.
"""

import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import numpy as np

from marval_ray import cli
from marval_ray.config import check_at_least
from marval_ray.evaluation.metrics import markdown_table
from marval_ray.files.latent_files import latents_schema, latents_table, latents_writer
from marval_ray.files.latents import LatentDataset, check_latents
from marval_ray.presets import MAR_MODELS

IMAGENET = 2 * 1_281_167
"""Images of ImageNet's training set with their mirror images."""
CLASSES = 1000
ENCODED_GROUP = 500
"""Images in a group, as jobs/encode.py has it by default."""


@dataclass(frozen=True)
class Config:
    gigabytes: float = 6.0
    """Of 10^9 bytes; as much room is needed on the disk."""
    batch: int = 64
    updates: int = 60
    """Batches after the first."""
    update_seconds: float = 0.285
    """64 images at the 4.46 ms each that an H100 took for updates of MAR-B (docs/scaling.md)."""
    parquet: bool = False
    folder: Path | None = None
    """On the disk to be measured, by default the system's temporary folder."""

    def __post_init__(self) -> None:
        check_at_least(1, self, "batch", "updates", prefix="--")


@dataclass(frozen=True)
class Figures:
    """Seconds and bytes of one process. resident, mapped: growth of its own memory, and of what it shares with the page cache."""

    check: float
    start: float
    resident: float
    mapped: float
    waits: list[float]


def main(config: Config) -> None:
    shape = MAR_MODELS["mar-b"].latent_shape
    with tempfile.TemporaryDirectory(dir=config.folder) as folder:
        rows = []
        for suffix in (".arrow", ".parquet") if config.parquet else (".arrow",):
            path = Path(folder) / f"latents{suffix}"
            write(path, config.gigabytes, int(np.prod(shape)))
            for cache in ("cold", "warm"):
                if cache == "cold":
                    empty_cache(path)
                else:
                    fill_cache(path)
                rows.append(row(f"{suffix[1:]}, {cache}", measured(path, shape, config), config))
            path.unlink()
    head = ["latents", "check, s", "start, s", "own memory, MB", "mapped, MB", "wait, ms", "longest", "idle"]
    print(f"{config.gigabytes:g} GB, batches of {config.batch}, updates of {config.update_seconds:g} s")
    print(markdown_table(head, rows))


def write(path: Path, gigabytes: float, size: int) -> None:
    count = int(gigabytes * 1e9 / (4 * size + 8))
    group = max(1, round(count * ENCODED_GROUP / IMAGENET))
    random, schema = np.random.default_rng(0), latents_schema(size)
    with latents_writer(path, schema) as write_table:
        for begin in range(0, count, group):
            rows = min(group, count - begin)
            mean = random.standard_normal((rows, size), dtype=np.float32).astype(np.float16)
            labels = random.integers(0, CLASSES, rows)
            write_table(latents_table(schema, mean, np.abs(mean), labels), group)


def empty_cache(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def fill_cache(path: Path) -> None:
    with path.open("rb") as file:
        while file.read(1 << 24):
            pass


def measured(path: Path, shape: tuple[int, int, int], config: Config) -> Figures:
    """Measure in a process of its own."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=rank, args=(there, path, shape, config))
    process.start()
    figures: Figures = here.recv()
    process.join()
    return figures


def rank(answer: Connection, path: Path, shape: tuple[int, int, int], config: Config) -> None:
    before = resident()
    began = time.perf_counter()
    check_latents(path, shape, CLASSES)
    checked = time.perf_counter()
    dataset = LatentDataset(path, shape)
    dataset.batch(0, 0, config.batch)
    started = time.perf_counter()
    waits = list(draw(dataset, config))
    own, mapped = (after - value for after, value in zip(resident(), before))
    answer.send(Figures(checked - began, started - checked, own, mapped, waits))


def draw(dataset: LatentDataset, config: Config) -> Iterator[float]:
    """Yield the seconds that each batch takes, with the pause of an update before it."""
    for step in range(1, 1 + config.updates):
        time.sleep(config.update_seconds)
        began = time.perf_counter()
        dataset.batch(0, step, config.batch)
        yield time.perf_counter() - began


def resident() -> tuple[int, int]:
    """Return the bytes of this process in memory: its own, and those of files."""
    lines = (line.split(":") for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    sizes = {name: int(value.split()[0]) * 1024 for name, value in lines if name.startswith("Rss")}
    return sizes["RssAnon"], sizes["RssFile"]


def row(name: str, figures: Figures, config: Config) -> list[str]:
    waits = figures.waits
    idle = sum(waits) / (sum(waits) + config.update_seconds * len(waits))
    times = [f"{figures.check:.2f}", f"{figures.start:.2f}", *(f"{size / 1e6:.0f}" for size in (figures.resident, figures.mapped))]
    return [name, *times, f"{1000 * median(waits):.1f}", f"{1000 * max(waits):.1f}", f"{idle:.1%}"]


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
