"""Parquet of latents: columns `mean` and `std` (fixed-size lists of float16, C * h * w) and `label` (int64).

A rank reads the row groups rank, rank + world, ... and keeps them in memory, so that ranks share the data without
talking. Batches are a function of (seed, step): nothing has to be replayed to resume.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from marval_ray.files.atomic import atomic_path
from marval_ray.files.encoding import Encoding

COLUMNS = ("mean", "std", "label")
CODEC = b"marval_ray.codec"
"""Key of the schema's metadata: `marval_ray.families.mar.vae.codec_id` of the autoencoder whose latents these are."""
CLASSES = b"marval_ray.classes"
"""Key of the schema's metadata: names of the classes as a JSON list, where the images had some."""


class LatentDataset:
    """Latents of one rank's share of `path` (a Parquet file or a folder of them).

    Raises ValueError on missing columns, on a latent size other than `shape` (C, h, w), and when there are fewer
    row groups than ranks, or numbers that are not finite.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int], rank: int = 0, world: int = 1):
        groups = [(file, group) for file in _parquet_files(path) for group in range(_row_groups(file, shape))]
        if len(groups) < world:
            raise ValueError(f"{path} has {len(groups)} row group(s), fewer than {world} ranks: write smaller ones")
        tables = [_read_group(file, group) for file, group in groups[rank::world]]
        table = pa.concat_tables(tables).combine_chunks()
        self.shape = shape
        self.mean, self.std = (_values(table[name], shape) for name in ("mean", "std"))
        self.labels = table["label"].to_numpy()
        self.rank = rank

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, seed: int, step: int, size: int) -> tuple[Float[Tensor, "B C h w"], Int64[Tensor, " B"]]:
        """Return batch number `step`: posterior samples of the latents, and labels. Each epoch has its own permutation."""
        places = np.arange(step * size, (step + 1) * size)
        epochs, offsets = places // len(self), places % len(self)
        rows = np.array([self._permutation(seed, e)[o] for e, o in zip(epochs.tolist(), offsets.tolist())])
        mean, std = (torch.from_numpy(values[rows]).float() for values in (self.mean, self.std))
        noise = np.random.default_rng((seed, step, self.rank, 1)).standard_normal(mean.shape, dtype=np.float32)
        return mean + std * torch.from_numpy(noise), torch.from_numpy(self.labels[rows])

    @lru_cache(maxsize=2)  # noqa: B019  (a dataset lives as long as its process)
    def _permutation(self, seed: int, epoch: int) -> np.ndarray:
        return np.random.default_rng((seed, epoch, self.rank, 0)).permutation(len(self))


def check_latents(path: Path, shape: tuple[int, int, int], num_classes: int, codec: str | None = None) -> None:
    """Raise ValueError unless `path` holds Parquet that `LatentDataset` can read, with labels 0..num_classes - 1.

    codec: `codec_id` of the autoencoder that will decode; latents that say they are of another one are refused,
    as are those that say they are of another shape. Only labels and metadata are read; NaN shows when latents are loaded.
    """
    for file in _parquet_files(path):
        _row_groups(file, shape)
        parquet = pq.ParquetFile(file)
        _check_encoding(file, parquet.schema_arrow, shape, codec)
        _check_missing(file, parquet)
        _check_labels(file, parquet.read(columns=["label"])["label"], num_classes)


def _check_encoding(file: Path, schema: pa.Schema, shape: tuple[int, int, int], codec: str | None) -> None:
    found, encoding = (schema.metadata or {}).get(CODEC, b"").decode(), Encoding.of(schema)
    if codec and found and codec != found:
        made = f"its codec is {found}{f' ({encoding})' if encoding else ''}, that of --vae {codec}"
        raise ValueError(f"{file} holds latents of another autoencoder ({made}): encode anew")
    if encoding and encoding.latent_shape != shape:
        raise ValueError(f"{file} holds latents of {encoding.latent_shape}, this model needs {shape}: encode anew, in its size")


def _check_missing(file: Path, parquet: pq.ParquetFile) -> None:
    """Raise ValueError when values are missing, by the counts that Parquet keeps of each column of a row group."""
    for group in range(parquet.num_row_groups):
        chunks = (parquet.metadata.row_group(group).column(index) for index in range(parquet.metadata.num_columns))
        for chunk in chunks:
            name = chunk.path_in_schema.split(".")[0]
            if name in COLUMNS and chunk.statistics is not None and chunk.statistics.null_count:
                raise ValueError(f"{file}: row group {group} has {chunk.statistics.null_count} missing value(s) in `{name}`")


def _check_labels(file: Path, labels: pa.ChunkedArray, classes: int) -> None:
    if not len(labels):
        raise ValueError(f"{file} holds no latents")
    if labels.null_count:
        raise ValueError(f"{file}: {labels.null_count} of {len(labels)} images have no label")
    outside = labels.filter(pc.or_(pc.less(labels, 0), pc.greater_equal(labels, classes)))
    if len(outside):
        raise ValueError(
            f"{file}: {len(outside)} of {len(labels)} labels are outside the model's classes 0-{classes - 1}, the first is "
            f"{outside[0].as_py()}; classes are counted from 0"
        )


def latents_schema(size: int, metadata: dict[bytes | str, bytes | str] | None = None) -> pa.Schema:
    """Return the columns of latents of `size` values an image."""
    vector = pa.list_(pa.float16(), size)
    return pa.schema({"mean": vector, "std": vector, "label": pa.int64()}, metadata)


def write_latents(path: Path, mean: np.ndarray, std: np.ndarray, labels: np.ndarray, group: int = 500) -> None:
    """Write latents (N, C, h, w) as Parquet with row groups of `group` images."""
    size = int(np.prod(mean.shape[1:]))
    columns = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(values.astype(np.float16).reshape(-1)), size)
        for name, values in (("mean", mean), ("std", std))
    }
    table = pa.table({**columns, "label": pa.array(labels, pa.int64())}, latents_schema(size))
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=group)


def _parquet_files(path: Path) -> list[Path]:
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].exists():
        raise ValueError(f"no Parquet file at {path}: jobs/encode.py writes one from images")
    return files


def _row_groups(file: Path, shape: tuple[int, int, int]) -> int:
    """Return the number of row groups of `file`, once its columns are known to fit."""
    try:
        parquet = pq.ParquetFile(file)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{file} is not a readable Parquet file: {error}") from error
    schema = parquet.schema_arrow
    missing = sorted(set(COLUMNS) - set(schema.names))
    if missing:
        raise ValueError(f"{file} lacks the column(s) {missing}; latents need {list(COLUMNS)}, it has {schema.names}")
    if not pa.types.is_integer(schema.field("label").type):
        raise ValueError(f"{file}: `label` must be an integer, it is {schema.field('label').type}")
    expected = int(np.prod(shape))
    for name in ("mean", "std"):
        kind = schema.field(name).type
        found = kind.list_size if pa.types.is_fixed_size_list(kind) else f"no fixed size ({kind})"
        if found != expected:
            raise ValueError(f"{file}: `{name}` holds {found} values an image, this model needs {shape} = {expected}")
    return parquet.num_row_groups


def _read_group(file: Path, group: int) -> pa.Table:
    table = pq.ParquetFile(file).read_row_group(group, columns=list(COLUMNS))
    for name in ("mean", "std"):
        values = table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        if not np.isfinite(values).all() or (name == "std" and (values < 0).any()):
            allowed = "finite" if name == "mean" else "finite and at least 0"
            raise ValueError(f"{file}: row group {group} has numbers in `{name}` that are not {allowed}")
    return table


def _values(column: pa.ChunkedArray, shape: tuple[int, int, int]) -> np.ndarray:
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(-1, *shape)
