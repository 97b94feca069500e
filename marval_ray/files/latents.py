"""Latents as training reads them.

A rank has the groups rank, rank + world, ... of the rows of a file, so that ranks share the data without talking.
Batches are a function of (seed, step): nothing has to be replayed to resume.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from marval_ray.files.encoding import check_encoding
from marval_ray.files.latent_files import COLUMNS, Group, LatentFile, check_values, latent_paths, open_latents
from marval_ray.files.order import Order

CLASSES = b"marval_ray.classes"
"""Key of the schema's metadata: names of the classes as a JSON list, where the images had some."""


class LatentDataset:
    """Latents of one rank's share of `path` (a file of latents or a folder of them): Arrow is mapped, Parquet read into memory.

    Raises ValueError on missing columns, on a latent size other than `shape` (C, h, w), and when there are fewer
    row groups than ranks, or numbers in Parquet that are not finite.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int], rank: int = 0, world: int = 1):
        places = [(file, index) for file in _fitting(path, shape) for index in range(file.groups)]
        if len(places) < world:
            raise ValueError(f"{path} has {len(places)} row group(s), fewer than {world} ranks: write smaller ones")
        self.groups = [file.group(index) for file, index in places[rank::world]]
        self.labels = np.concatenate([group.labels for group in self.groups])
        self.starts = np.cumsum([0, *(len(group.labels) for group in self.groups)])[:-1]
        self.shape, self.rank = shape, rank
        self.order = Order(len(self.labels), rank)
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._ahead: dict[tuple[int, int, int], Future[tuple[Tensor, Tensor]]] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, seed: int, step: int, size: int) -> tuple[Float[Tensor, "B C h w"], Int64[Tensor, " B"]]:
        """Return batch number `step`: posterior samples of the latents, and labels. Each epoch has its own permutation.

        The next one is made meanwhile, in a thread. Raises ValueError when numbers are not finite.
        """
        ahead = self._ahead.pop((seed, step, size), None)
        batch = ahead.result() if ahead else self._batch(seed, step, size)
        self._ahead = {(seed, step + 1, size): self._thread.submit(self._batch, seed, step + 1, size)}
        return batch

    def _batch(self, seed: int, step: int, size: int) -> tuple[Float[Tensor, "B C h w"], Int64[Tensor, " B"]]:
        rows = self.order.batch(seed, step, size)
        mean, std = self._values(rows)
        noise = np.random.default_rng((seed, step, self.rank, 1)).standard_normal(mean.shape, dtype=np.float32)
        return torch.from_numpy(mean + std * noise), torch.from_numpy(self.labels[rows])

    def _places(self, rows: np.ndarray) -> Iterator[tuple[Group, int]]:
        """Yield where each row lies."""
        for index, row in zip(np.searchsorted(self.starts, rows, side="right") - 1, rows):
            yield self.groups[index], row - self.starts[index]

    def _values(self, rows: np.ndarray) -> tuple[Float[np.ndarray, "B C h w"], Float[np.ndarray, "B C h w"]]:
        """Read means and standard deviations, in float32."""
        places = list(self._places(rows))
        for group, row in places:
            group.will_need(row)  # all of them, before the first one is waited for
        mean, std = (np.stack([getattr(group, name)[row] for group, row in places]).astype(np.float32) for name in ("mean", "std"))
        for (group, _), *values in zip(places, mean, std):
            check_values(group.name, *values)
        return mean.reshape(-1, *self.shape), std.reshape(-1, *self.shape)


def check_latents(path: Path, shape: tuple[int, int, int], num_classes: int, codec: str | None = None) -> None:
    """Raise ValueError unless `path` holds what `LatentDataset` can read, with labels 0..num_classes - 1.

    codec: `codec_id` of the autoencoder that will decode; latents that say they are of another one are refused,
    as are those that say they are of another shape. Only labels and metadata are read; NaN shows when latents are read.
    """
    for file in _fitting(path, shape):
        check_encoding(file.path, file.schema, shape, codec)
        _check_missing(file)
        _check_labels(file.path, file.labels(), num_classes)


def _fitting(path: Path, shape: tuple[int, int, int]) -> list[LatentFile]:
    """Open the files at `path`. Raises ValueError unless their latents have as many values as `shape`."""
    files, expected = [open_latents(file) for file in latent_paths(path)], int(np.prod(shape))
    for file in files:
        for name in ("mean", "std"):
            found = file.schema.field(name).type.list_size
            if found != expected:
                raise ValueError(f"{file.path}: `{name}` holds {found} values an image, this model needs {shape} = {expected}")
    return files


def _check_missing(file: LatentFile) -> None:
    """Raise ValueError when values are missing."""
    for index in range(file.groups):
        for name, count in file.missing(index).items():
            if name in COLUMNS and count:
                raise ValueError(f"{file.path}: row group {index} has {count} missing value(s) in `{name}`")


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
