"""Encode images once into latents, or with DC-HT into codes and residuals, which all training reads. Ray Data spreads the work over a
cluster.

    python jobs/encode.py --images data/fashion-mnist/train.parquet --out data/fashion-mnist/latents-train.parquet
    python jobs/encode.py --images imagenet/train --vae kl16.ckpt --out latents.arrow --workers 8 --gpus-per-worker 1
    python jobs/encode.py --images pictures-with-prompts.parquet --vae models/dc-ht --out codes.parquet --gpus-per-worker 1

The latents come in the order of the images, whatever the number of workers.
"""

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from marval_ray.environment import before_ray

before_ray()

import pyarrow as pa
import ray
import ray.data
from tqdm import tqdm

from actors import errors, local_ray
from actors.encoder import Batch, Decoder, Encoder
from actors.image_options import ImageOptions
from marval_ray.config import check_at_least
from marval_ray.families.base import ImageEncoder
from marval_ray.families.encoders import read_encoder
from marval_ray.files.encoded_parts import Parts, Progress
from marval_ray.files.image_set import ImageSet, summary
from marval_ray.files.image_tables import ImageTables
from marval_ray.files.latent_files import ARROW
from marval_ray.files.latents import CLASSES
from marval_ray.files.storage import Storage
from marval_ray.files.tar_shards import TarShards
from marval_ray.runs.lock import locked

PART = 4096
"""Images whose latents are kept in memory before they are written: as much is lost by a crash."""


@dataclass(frozen=True, kw_only=True)
class Config(ImageOptions):
    out: Path
    """The file to write: NAME.parquet, which learners read into memory, or NAME.arrow, which they map, as large data need; of DC-HT
    Parquet alone."""
    flip: bool = False
    """Write each image's mirror image as well, behind it."""
    batch: int = 128
    """Images encoded at a time."""
    workers: int = 1
    """Processes that hold the codec."""
    gpus_per_worker: float = 0.0
    """0 encodes on CPUs, one thread a worker."""
    group: int = 500
    """Latents in a row group; learner ranks share a file by row groups."""
    skip_bad: bool = False
    """List images that cannot be encoded and rows without a class, and go on, instead of ending at the first."""
    resume: bool = False
    """Go on with an interrupted encoding into the same --out."""
    overwrite: bool = False

    def __post_init__(self) -> None:
        check_at_least(1, self, "batch", "workers", "group", prefix="--")


@dataclass(frozen=True)
class Told:
    """The columns of the file, with what made them. prompts: the text of each class, where the last column holds prompts."""

    schema: pa.Schema
    prompts: tuple[str, ...] | None

    @classmethod
    def of(cls, encoder: ImageEncoder, size: int, images: ImageSet) -> "Told":
        schema = encoder.schema(size)
        if encoder.reads_texts:
            return cls(schema, images.names)
        names = {CLASSES: json.dumps(images.names)} if images.names else {}
        return cls(schema.with_metadata(schema.metadata | names), None)

    @property
    def digest(self) -> str:
        """Name the prompts by hex digits; empty where there are none."""
        return hashlib.sha256("\0".join(self.prompts).encode()).hexdigest() if self.prompts else ""

    def table(self, batch: Batch) -> pa.Table:
        """Return the rows of a batch without those of bad images."""
        good = batch["fault"] == ""
        *lists, _ = self.schema
        columns = [pa.FixedSizeListArray.from_arrays(pa.array(batch[f.name][good].reshape(-1)), f.type.list_size) for f in lists]
        labels = pa.array(batch["label"][good])
        return pa.table([*columns, pa.array(self.prompts).take(labels) if self.prompts else labels], schema=self.schema)


def main(config: Config) -> None:
    parts = Parts.of(config.out)
    with locked(Storage.of(str(parts.folder))):
        check_out(config, parts)
        encode_into(parts, config)


def encode_into(parts: Parts, config: Config) -> None:
    """Encode what `parts` does not hold yet, and make one file of them."""
    encoder = read_encoder(config.vae)
    if encoder.reads_texts and config.out.suffix == ARROW:
        raise ValueError(f"--out {config.out}: codes and residuals are written as Parquet, NAME.parquet")
    images = config.find(config.skip_bad, encoder.reads_texts)
    decoder = config.decoder(encoder.sizes)
    told = Told.of(encoder, decoder.size, images)
    settings = f"{encoder.id} {decoder} flip={config.flip}{told.digest}"
    before = begin(config, parts, images, settings)
    if before.images < len(images):
        start_ray(config)
        latents = encode(read(images, before.images), decoder, config)
        for table, progress in cut(latents, before, told, config, len(images)):
            parts.add(table, progress, images.digest(progress.images, settings))
    done, _ = parts.progress()
    print(f"{config.out}: {summary(images, parts.join(config.out, config.group, told.schema), done.bad, encoder.reads_texts)}")


def check_out(config: Config, parts: Parts) -> None:
    if config.out.is_dir():
        raise ValueError(f"{config.out} is a folder: --out names the file to write")
    if config.out.exists() and not config.overwrite:
        raise ValueError(f"{config.out} exists already: choose another --out or pass --overwrite")
    if parts.files() and not (config.resume or config.overwrite):
        raise ValueError(f"{parts.folder} holds an interrupted encoding: --resume goes on with it, --overwrite begins anew")


def begin(config: Config, parts: Parts, images: ImageSet, settings: str) -> Progress:
    """Tell how far an earlier run came that is gone on with. Raises ValueError when it was of other images or settings."""
    if not config.resume:
        parts.clear()
    progress, digest = parts.progress()
    if progress.images and (progress.images > len(images) or digest != images.digest(progress.images, settings)):
        raise ValueError(
            f"{parts.folder} holds the first {progress.images:,} images of another list, or in other settings: give those for "
            "--resume, or --overwrite to begin anew"
        )
    return progress


def start_ray(config: Config) -> None:
    """Raise ValueError when the cluster can never run the workers beside a task that decodes images."""
    local_ray.begin(ignore_reinit_error=True, logging_level=logging.WARNING)
    context = ray.data.DataContext.get_current()  # a dataset takes a copy when it is made
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False  # `cut` shows one of images
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it warns that there are no bars
    total = ray.cluster_resources()
    on_cpu = config.gpus_per_worker == 0
    needed = {"CPU": 1 + config.workers * on_cpu, "GPU": config.workers * config.gpus_per_worker}
    for name, amount in needed.items():
        if amount > total.get(name, 0):
            raise ValueError(
                f"{config.workers} worker(s) and the decoding of images need {amount:g} {name}s, "
                f"the cluster has {total.get(name, 0):g}: lower --workers"
            )


def read(images: ImageSet, start: int) -> ray.data.Dataset:
    """Read the images from number `start` on, as `Decoder` takes them."""
    places = ray.data.from_arrow(images.tables(start))
    if isinstance(images, (ImageTables, TarShards)):
        return places.map_batches(images.read, batch_size=1, batch_format="pyarrow")
    return places


def encode(images: ray.data.Dataset, decoder: Decoder, config: Config) -> ray.data.Dataset:
    """Return the latents of `images`, in their order; nothing runs before they are read."""
    on_cpu = config.gpus_per_worker == 0
    # Blocks of exactly one batch keep memory small, and results independent of the number of workers.
    blocks = images.repartition(target_num_rows_per_block=config.batch, strict=True)
    return blocks.map_batches(decoder.__call__, batch_size=config.batch).map_batches(
        Encoder,
        fn_constructor_args=(config.vae.absolute(), "cpu" if on_cpu else "cuda", config.flip),
        batch_size=config.batch,
        zero_copy_batch=False,  # torch wants writable arrays
        compute=ray.data.ActorPoolStrategy(size=config.workers),
        num_cpus=1 if on_cpu else 0,
        num_gpus=config.gpus_per_worker,
    )


def cut(latents: ray.data.Dataset, done: Progress, told: Told, config: Config, total: int) -> Iterator[tuple[pa.Table, Progress]]:
    """Yield the latents of about PART images at a time, and how far they lead.

    Raises ValueError at the first image that cannot be encoded, after the latents before it, unless --skip-bad.
    """
    views = 1 + config.flip
    start, waiting = done.images, list[pa.Table]()
    with tqdm(desc="encoded", total=total, initial=start, unit="image", mininterval=5) as bar:
        for batch in latents.iter_batches(batch_size=config.batch * views, batch_format="numpy"):
            faults = [fault for fault in batch["fault"][::views] if fault]
            if faults and not config.skip_bad:
                if waiting:
                    yield pa.concat_tables(waiting), done
                raise ValueError(f"{faults[0]} (--skip-bad leaves such images out, --resume keeps what is encoded)")
            for fault in faults:
                bar.write(f"left out: {fault}")
            waiting.append(told.table(batch))
            count = len(batch["label"]) // views
            if done.images == start:
                bar.reset()  # its clock: the pace is that of workers at work, without Ray's start
                bar.initial = bar.n = done.images + count
            else:
                bar.update(count)
            done = Progress(done.images + count, done.bad + len(faults))
            if sum(map(len, waiting)) >= PART:
                yield pa.concat_tables(waiting), done
                waiting = []
    if waiting:
        yield pa.concat_tables(waiting), done


def log_of(config: Config) -> Path:
    """Return the file for what Ray has to say."""
    return config.out.with_name(f"{config.out.name}.log")


if __name__ == "__main__":
    errors.run(main, Config, __doc__, log_of)
