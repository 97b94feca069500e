"""Encode images once into Parquet latents, which all training reads. Ray Data spreads the work over a cluster.

    python jobs/encode.py --images data/fashion-mnist/train.parquet --out data/fashion-mnist/latents-train.parquet
    python jobs/encode.py --images imagenet/train --vae kl16.ckpt --out latents.parquet --workers 8 --gpus-per-worker 1

The latents come in the order of the images, whatever the number of workers.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from marval_ray.environment import before_ray

before_ray()

import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data

from actors.encoder import Batch, Decoder, Encoder
from marval_ray import assets_index, cli
from marval_ray.config import check_at_least
from marval_ray.files import atomic_path
from marval_ray.models.vae import VAE, load_vae

KL16_SIZE = 256
"""Pixels that published KL-16 autoencoders were trained on; their files do not say."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass(frozen=True)
class Config:
    images: Path
    """Parquet (a file, or a folder of parts) with the columns `image` (a PNG, JPEG, ... file's bytes) and `label`;
    or a folder with a subfolder of image files for each class, labelled 0, 1, ... in alphabetical order."""
    out: Path
    """The Parquet file to write."""
    vae: Path = assets_index.VAE
    """Autoencoder: a diffusers folder, or KL-16 as published (kl16.ckpt)."""
    size: int | None = None
    """Pixels a side given to the autoencoder; by default its own: 32 for the embedded one, 256 for KL-16."""
    fit: Literal["pad", "crop"] | None = None
    """Make images square by black borders, or by scaling and cutting out the centre; by default `pad` for a grey
    autoencoder and `crop` for a colour one."""
    flip: bool = False
    """Write each image's mirror image as well, behind it."""
    batch: int = 128
    """Images encoded at a time."""
    workers: int = 1
    """Processes that hold the autoencoder."""
    gpus_per_worker: float = 0.0
    """0 encodes on CPUs, one thread a worker."""
    group: int = 500
    """Latents in a row group; learner ranks share a file by row groups."""
    overwrite: bool = False

    def __post_init__(self) -> None:
        check_at_least(1, self, "batch", "workers", "group", prefix="--")


def main(config: Config) -> None:
    check_out(config)
    vae = load_vae(config.vae)
    decoder = make_decoder(config, vae)
    sources = find_images(config.images.absolute())
    ray.init(ignore_reinit_error=True)
    check_resources(config)
    latents = encode(read(sources), decoder, config)
    count = write(latents.iter_batches(batch_size=config.group, batch_format="numpy"), config.out, latent_size(vae, decoder))
    print(f"{config.out}: {count} latents of {config.images}")


def check_out(config: Config) -> None:
    if config.out.is_dir():
        raise ValueError(f"{config.out} is a folder: --out names the Parquet file to write")
    if config.out.exists() and not config.overwrite:
        raise ValueError(f"{config.out} exists already: choose another --out or pass --overwrite")


def make_decoder(config: Config, vae: VAE) -> Decoder:
    """What the autoencoder needs of its images. Raises ValueError when the size is not a multiple of its stride."""
    c = vae.autoencoder.config
    size = config.size or (c.sample_size if config.vae.is_dir() else KL16_SIZE)
    if size % stride(vae):
        raise ValueError(f"--size {size} is not a multiple of {stride(vae)}, the pixels of {config.vae} a latent")
    return Decoder(size, c.in_channels, config.fit or ("pad" if c.in_channels == 1 else "crop"))


def stride(vae: VAE) -> int:
    """Pixels a side of one latent."""
    return 2 ** (len(vae.autoencoder.config.block_out_channels) - 1)


def latent_size(vae: VAE, decoder: Decoder) -> int:
    """Values of one image's latent."""
    return vae.autoencoder.config.latent_channels * (decoder.size // stride(vae)) ** 2


def find_images(path: Path) -> list[Path] | pa.Table:
    """Parquet files, or a table of `path` and `label` of a class folder. Raises ValueError when there are no images."""
    if not path.exists():
        raise ValueError(f"there are no images at {path}")
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files:
        return list_classes(path)
    if not sum(count_rows(file) for file in files):
        raise ValueError(f"{path} holds no rows")
    return files


def count_rows(file: Path) -> int:
    """The number of images in a Parquet file, once its columns are known to fit."""
    try:
        parquet = pq.ParquetFile(file)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{file} is not a readable Parquet file: {error}") from error
    schema = parquet.schema_arrow
    missing = sorted({"image", "label"} - set(schema.names))
    if missing:
        raise ValueError(f"{file} lacks the column(s) {missing}; images need ['image', 'label'], it has {schema.names}")
    image, label = schema.field("image").type, schema.field("label").type
    if not (pa.types.is_binary(image) or pa.types.is_large_binary(image)) or not pa.types.is_integer(label):
        raise ValueError(f"{file}: `image` must be binary and `label` an integer, they are {image} and {label}")
    return parquet.metadata.num_rows


def list_classes(folder: Path) -> pa.Table:
    """`path` and `label` of the image files in the subfolders, in alphabetical order."""
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir())
    rows = [
        (str(file), label)
        for label, entry in enumerate(classes)
        for file in sorted(entry.iterdir())
        if file.suffix.lower() in SUFFIXES
    ]
    if not rows:
        raise ValueError(f"{folder} holds neither *.parquet nor a subfolder with images ({', '.join(SUFFIXES)})")
    paths, labels = zip(*rows)
    return pa.table({"path": pa.array(paths), "label": pa.array(labels, pa.int64())})


def check_resources(config: Config) -> None:
    """Raise ValueError when the cluster can never run the workers beside a task that decodes images."""
    total = ray.cluster_resources()
    on_cpu = config.gpus_per_worker == 0
    needed = {"CPU": 1 + config.workers * on_cpu, "GPU": config.workers * config.gpus_per_worker}
    for name, amount in needed.items():
        if amount > total.get(name, 0):
            raise ValueError(
                f"{config.workers} worker(s) and the decoding of images need {amount:g} {name}s, "
                f"the cluster has {total.get(name, 0):g}: lower --workers"
            )


def read(sources: list[Path] | pa.Table) -> ray.data.Dataset:
    if isinstance(sources, pa.Table):
        return ray.data.from_arrow(sources)
    return ray.data.read_parquet([str(file) for file in sources], columns=["image", "label"])


def encode(images: ray.data.Dataset, decoder: Decoder, config: Config) -> ray.data.Dataset:
    """Latents of `images`, in their order; nothing runs before they are read."""
    ray.data.DataContext.get_current().execution_options.preserve_order = True
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


def write(batches: Iterable[Batch], path: Path, size: int) -> int:
    """Write each batch as a row group, as `marval_ray.data.LatentDataset` reads them; returns the number of latents."""
    vector = pa.list_(pa.float16(), size)
    schema = pa.schema({"mean": vector, "std": vector, "label": pa.int64()})
    rows = 0
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for batch in batches:
            vectors = [
                pa.FixedSizeListArray.from_arrays(pa.array(batch[name].reshape(-1)), size) for name in ("mean", "std")
            ]
            writer.write_table(pa.table([*vectors, pa.array(batch["label"])], schema=schema))
            rows += len(batch["label"])
    return rows


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
