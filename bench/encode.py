"""Images/s of jobs/encode.py against the codec's own loop over the same images, on the same cores, in turns.

    python bench/encode.py
    python bench/encode.py --codecs kl16 --repeats 1

The loop is one process with one thread that decodes a batch and encodes it; the codec alone is its time without the decoding.
The job has one worker on CPU. Its pace is that of the images beyond a first share: the time of a whole run less that of a run of
this share alone, so without the start of Ray, and with the writing of latents.
"""

import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from tables import over

from actors.encoder import Batch, Decoder, Encoder
from marval_ray import cli
from marval_ray.embedded import assets_index
from marval_ray.evaluation.metrics import markdown_table
from marval_ray.families.mar.autoencoder import KL16
from marval_ray.files.find_images import find_images
from marval_ray.files.image_tables import Columns

ENCODE = Path(__file__).parent.parent / "jobs/encode.py"
JPEG_SIDE = 400
"""Pixels of the longer side of KL-16's images, about those of ImageNet."""


@dataclass(frozen=True)
class Config:
    codecs: tuple[Literal["embedded", "kl16"], ...] = ("embedded", "kl16")
    """The embedded one at 32 pixels, and one of KL-16's sizes with random weights at 256."""
    repeats: int = 3
    cores: int = 1
    """Of both sides. With two, Ray decodes beside the worker, which the loop cannot."""
    embedded_images: int = 24_000
    """The 8,000 that ship, again and again."""
    kl16_images: int = 40
    first: float = 0.2
    """Share of the images that the shorter run has."""
    embedded_batch: int = 128
    kl16_batch: int = 4


@dataclass(frozen=True)
class Case:
    """What both sides encode."""

    name: str
    images: Path
    vae: Path
    decoder: Decoder
    batch: int

    @property
    def first(self) -> Path:
        """Where the first of the images are alone."""
        return self.images.with_name(f"first-{self.images.name}")


@dataclass(frozen=True)
class Turn:
    """Images/s of one turn."""

    job: float
    loop: float
    codec: float


def main(config: Config) -> None:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: config.cores])
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        cases = {"embedded": embedded, "kl16": kl16}
        rows = []
        for name in config.codecs:
            case = cases[name](Path(folder), config)
            turns = [turn(case, Path(folder)) for _ in range(config.repeats)]
            rows.append(row(case, turns))
    print(markdown_table(["codec", "job, images/s", "its loop", "the codec alone", "job / loop", "job / codec alone"], rows))


def embedded(folder: Path, config: Config) -> Case:
    table = pq.read_table(assets_index.IMAGES)
    times = -(-config.embedded_images // len(table))
    return written(Case("embedded, 32 px", folder / "embedded.parquet", assets_index.VAE, Decoder(32, 1, "pad"), config.embedded_batch),
                   pa.concat_tables([table] * times).slice(0, config.embedded_images), config.first)  # fmt: skip


def kl16(folder: Path, config: Config) -> Case:
    torch.manual_seed(0)
    KL16.build().save_pretrained(folder / "kl16")
    rows = [{"image": photo(number), "label": 0} for number in range(config.kl16_images)]
    case = Case("KL-16, 256 px", folder / "photos.parquet", folder / "kl16", Decoder(256, 3, "crop"), config.kl16_batch)
    return written(case, pa.Table.from_pylist(rows), config.first)


def written(case: Case, images: pa.Table, share: float) -> Case:
    """Write all images, and the first of them as a file of their own."""
    pq.write_table(images, case.images)
    pq.write_table(images.slice(0, round(len(images) * share)), case.first)
    return case


def photo(seed: int) -> bytes:
    """A JPEG of about ImageNet's size and detail: noise at several scales."""
    random, size = np.random.default_rng(seed), (JPEG_SIDE, JPEG_SIDE * 3 // 4)
    layers = [Image.fromarray(random.integers(0, 256, (side, side, 3), np.uint8)).resize(size) for side in (5, 40, 200)]
    file = io.BytesIO()
    Image.fromarray(np.mean([np.asarray(layer) for layer in layers], axis=0).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def turn(case: Case, folder: Path) -> Turn:
    """Measure the loop before and after the job."""
    before, job, after = own_loop(case), job_pace(case, folder), own_loop(case)
    return Turn(job, *(2 / (1 / a + 1 / b) for a, b in zip(before, after)))


def own_loop(case: Case) -> tuple[float, float]:
    """Return images/s of decoding and encoding in turns, and of encoding alone; the first batch warms up."""
    encoder, first = Encoder(case.vae, "cpu"), True
    count, decoding, encoding = 0, 0.0, 0.0
    for batch in batches(case):
        began = time.perf_counter()
        pixels = case.decoder(batch)
        decoded = time.perf_counter()
        encoder(pixels)
        if not first:
            count += len(pixels["label"])
            decoding += decoded - began
            encoding += time.perf_counter() - decoded
        first = False
    return count / (decoding + encoding), count / encoding


def batches(case: Case) -> Iterator[Batch]:
    table = pa.concat_tables(find_images(case.images, Columns()).read_here()).combine_chunks()
    for rows in table.to_batches(max_chunksize=case.batch):
        yield {name: rows[name].to_numpy(zero_copy_only=False) for name in rows.schema.names}


def job_pace(case: Case, folder: Path) -> float:
    """Return images/s of the job beyond the first images."""
    seconds = [job_seconds(case, images, folder) for images in (case.first, case.images)]
    counts = [pq.read_metadata(images).num_rows for images in (case.first, case.images)]
    return (counts[1] - counts[0]) / (seconds[1] - seconds[0])


def job_seconds(case: Case, images: Path, folder: Path) -> float:
    options = {"images": images, "vae": case.vae, "out": folder / "latents.parquet", "size": case.decoder.size, "batch": case.batch}
    command = [sys.executable, str(ENCODE), "--overwrite", *(part for name, value in options.items() for part in (f"--{name}", str(value)))]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=ENCODE.parent.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(done.stderr.splitlines()[-1])
    return time.perf_counter() - began


def row(case: Case, turns: list[Turn]) -> list[str]:
    """Return paces, and ratios with the standard errors of their means over turns."""
    paces = [f"{mean(getattr(one, name) for one in turns):.3g}" for name in ("job", "loop", "codec")]
    return [case.name, *paces, over((one.job / one.loop for one in turns), ".2f"), over((one.job / one.codec for one in turns), ".2f")]


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
