"""Files of latents: columns `mean` and `std` (fixed-size lists of float16, C * h * w) and `label` (int64), in groups of rows.

NAME.arrow, Arrow's file format without compression, is mapped: a row is read when it is looked at. Any other name is Parquet,
which is smaller and known to more programs, but whose groups are read whole.
"""

import mmap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Integer

from marval_ray.files.atomic import atomic_path

COLUMNS = ("mean", "std", "label")
ARROW = ".arrow"


@dataclass(frozen=True)
class Group:
    """Rows that lie together. name: where. memory: what they are mapped from."""

    name: str
    mean: Float[np.ndarray, "N V"]
    std: Float[np.ndarray, "N V"]
    labels: Integer[np.ndarray, " N"]
    memory: mmap.mmap | None = None

    def will_need(self, row: int) -> None:
        """Let the system read a mapped row in the background."""
        if self.memory is None:
            return
        for values in (self.mean[row], self.std[row]):
            start = _address(values) - _address(self.memory)
            page = start - start % mmap.PAGESIZE
            self.memory.madvise(mmap.MADV_WILLNEED, page, start + values.nbytes - page)


class ParquetLatents:
    """Parquet. Raises ValueError when `path` is none."""

    def __init__(self, path: Path):
        try:
            self.parquet = pq.ParquetFile(path)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{path} is not a readable Parquet file: {error}") from error
        self.path, self.schema, self.groups = path, self.parquet.schema_arrow, self.parquet.num_row_groups

    def labels(self) -> pa.ChunkedArray:
        return self.parquet.read(columns=["label"])["label"]

    def missing(self, index: int) -> dict[str, int]:
        """Count the missing values of each column of a group, by what Parquet keeps of them."""
        row_group = self.parquet.metadata.row_group(index)
        chunks = [row_group.column(place) for place in range(row_group.num_columns)]
        return {chunk.path_in_schema.split(".")[0]: chunk.statistics.null_count or 0 for chunk in chunks if chunk.statistics is not None}

    def group(self, index: int) -> Group:
        """Read a group. Raises ValueError as `check_values` does."""
        table = self.parquet.read_row_group(index, columns=list(COLUMNS))
        mean, std = (_values(table[name].combine_chunks()) for name in ("mean", "std"))
        group = Group(f"{self.path}: row group {index}", mean, std, table["label"].to_numpy())
        check_values(group.name, mean, std)
        return group


class ArrowLatents:
    """Arrow's file format, mapped. Raises ValueError when `path` is none, or compressed."""

    def __init__(self, path: Path):
        try:
            with path.open("rb") as file:
                self.memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self.memory.madvise(mmap.MADV_RANDOM)  # a row is 8 KB, read-ahead up to megabytes
            self.reader = pa.ipc.open_file(pa.py_buffer(self.memory))
        except ValueError as error:  # of Arrow; of mmap when the file is empty
            raise ValueError(f"{path} is not a readable Arrow file: {error}") from error
        self.path, self.schema, self.groups = path, self.reader.schema, self.reader.num_record_batches

    def labels(self) -> pa.ChunkedArray:
        return pa.chunked_array([self._batch(index)["label"] for index in range(self.groups)], self.schema.field("label").type)

    def missing(self, index: int) -> dict[str, int]:
        """Count the missing values of each column of a group."""
        batch = self._batch(index)
        vectors = {name: batch[name].null_count + batch[name].flatten().null_count for name in ("mean", "std")}
        return {**vectors, "label": batch["label"].null_count}

    def group(self, index: int) -> Group:
        """Map a group; nothing but the labels is read."""
        batch = self._batch(index)
        mean, std = _values(batch["mean"]), _values(batch["std"])
        start = _address(mean) - _address(self.memory)
        if not 0 <= start < len(self.memory):
            raise ValueError(f"{self.path} is compressed, so that it cannot be mapped: write it without")
        return Group(f"{self.path}: row group {index}", mean, std, batch["label"].to_numpy(), self.memory)

    def _batch(self, index: int) -> pa.RecordBatch:
        try:
            batch = self.reader.get_batch(index)
            batch.validate()
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{self.path}: row group {index} is damaged: {error}") from error
        return batch


LatentFile = ParquetLatents | ArrowLatents


def latent_paths(path: Path) -> list[Path]:
    """Return `path` itself or, of a folder, its files of latents in the order of their names. Raises ValueError when there are none."""
    files = sorted([*path.glob("*.parquet"), *path.glob(f"*{ARROW}")]) if path.is_dir() else [path]
    if not files or not files[0].exists():
        raise ValueError(f"no Parquet file at {path}, and no Arrow file: jobs/encode.py writes one from images")
    kinds = {file.suffix for file in files}
    if len(kinds) > 1:
        raise ValueError(f"{path} has files of latents in Parquet and in Arrow: keep one kind, else images may count twice")
    return files


def open_latents(path: Path) -> LatentFile:
    """Open a file of latents. Raises ValueError when it is none by its format or its columns."""
    file = ArrowLatents(path) if path.suffix == ARROW else ParquetLatents(path)
    missing = sorted(set(COLUMNS) - set(file.schema.names))
    if missing:
        raise ValueError(f"{path} lacks the column(s) {missing}; latents need {list(COLUMNS)}, it has {file.schema.names}")
    if not pa.types.is_integer(file.schema.field("label").type):
        raise ValueError(f"{path}: `label` must be an integer, it is {file.schema.field('label').type}")
    for name in ("mean", "std"):
        kind = file.schema.field(name).type
        if not pa.types.is_fixed_size_list(kind):
            raise ValueError(f"{path}: `{name}` holds lists of no fixed size ({kind})")
    return file


def check_values(name: str, mean: Float[np.ndarray, "*N V"], std: Float[np.ndarray, "*N V"]) -> None:
    """Raise ValueError unless all numbers are finite and no standard deviation is negative."""
    if not np.isfinite(mean).all():
        raise ValueError(f"{name} has numbers in `mean` that are not finite")
    if not np.isfinite(std).all() or (std < 0).any():
        raise ValueError(f"{name} has numbers in `std` that are not finite and at least 0")


def latents_schema(size: int, metadata: dict[bytes | str, bytes | str] | None = None) -> pa.Schema:
    """Return the columns of latents of `size` values an image."""
    vector = pa.list_(pa.float16(), size)
    return pa.schema({"mean": vector, "std": vector, "label": pa.int64()}, metadata)


def latents_table(schema: pa.Schema, mean: Float[np.ndarray, "N V"], std: Float[np.ndarray, "N V"], labels: np.ndarray) -> pa.Table:
    """Return rows as columns."""
    vectors = [pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1]) for values in (mean, std)]
    return pa.table([*vectors, pa.array(labels)], schema=schema)


def write_latents(path: Path, mean: np.ndarray, std: np.ndarray, labels: np.ndarray, group: int = 500) -> None:
    """Write latents (N, C, h, w) in groups of `group` images, as Arrow or Parquet by the name of `path`."""
    mean, std = (values.reshape(len(values), -1).astype(np.float16) for values in (mean, std))
    schema = latents_schema(mean.shape[1])
    with latents_writer(path, schema) as write:
        write(latents_table(schema, mean, std, labels), group)


@contextmanager
def latents_writer(path: Path, schema: pa.Schema) -> Iterator[Callable[[pa.Table, int], None]]:
    """Yield what writes a table in groups of so many rows; `path` appears at the end, whole, in the format of its name."""
    with atomic_path(path) as temporary:
        arrow = path.suffix == ARROW
        with pa.ipc.new_file(str(temporary), schema) if arrow else pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            yield lambda table, group: writer.write_table(table.combine_chunks(), group)


def _values(column: pa.FixedSizeListArray) -> np.ndarray:
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)


def _address(memory: np.ndarray | mmap.mmap) -> int:
    return np.frombuffer(memory, np.uint8).ctypes.data
