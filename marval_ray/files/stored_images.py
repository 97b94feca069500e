"""Images that somebody drew earlier, as evaluators exchange them: an .npz, or a flat folder of pictures."""

import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from marval_ray.files.atomic import atomic_path
from marval_ray.files.images import decode_image

ENDINGS = (".png", ".jpg", ".jpeg")
SHUFFLE = 2020
"""Seed of the order, torch-fidelity's: Inception scores are of chunks of it, and ADM takes those of a file as they lie."""


class StoredImages(ABC):
    """A row of images of one size. labels: their classes, where somebody noted them."""

    labels: Int64[np.ndarray, " N"] | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def pixels(self, start: int, stop: int) -> UInt8[np.ndarray, "N H W C"]:
        """Read those from number `start` up to `stop`. Raises ValueError when one cannot be read, or has another size."""

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        rows, columns = self.pixels(0, 1).shape[1:3]
        return rows, columns


class ArrayImages(StoredImages):
    """Those in an array, such as arr_0 of an .npz."""

    def __init__(self, array: UInt8[np.ndarray, "N H W C"], labels: Int64[np.ndarray, " N"] | None = None):
        self.array, self.labels = array, labels

    def __len__(self) -> int:
        return len(self.array)

    def pixels(self, start: int, stop: int) -> UInt8[np.ndarray, "N H W C"]:
        return self.array[start:stop]


class FolderImages(StoredImages):
    """PNG or JPEG files, in the order of their names."""

    def __init__(self, folder: Path):
        self.files = sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS)
        if not self.files:
            raise ValueError(f"{folder} has no files that end in {', '.join(ENDINGS)}")

    def __len__(self) -> int:
        return len(self.files)

    def pixels(self, start: int, stop: int) -> UInt8[np.ndarray, "N H W C"]:
        read = [self._read(path) for path in self.files[start:stop]]
        for path, pixels in zip(self.files[start:stop], read):
            if pixels.shape != self.shape:
                both = f"{path} is {told(pixels.shape)}, {self.files[0].name} is {told(self.shape)}"
                raise ValueError(f"{both}: images of one size can be compared")
        return np.stack(read)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Of the first image."""
        return self._read(self.files[0]).shape

    def _read(self, path: Path) -> UInt8[np.ndarray, "H W C"]:
        try:
            return decode_image(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{path} {error}") from error


def told(shape: tuple[int, ...]) -> str:
    """Say the size of an image: rows, columns, channels."""
    return " x ".join(map(str, shape))


def shuffled(count: int) -> Int64[np.ndarray, " N"]:
    """Return the random order in which torch-fidelity, and an .npz that is written here, have so many images."""
    return np.random.RandomState(SHUFFLE).permutation(count)


def open_images(path: Path) -> StoredImages:
    """Open an .npz with `arr_0` and perhaps labels, `arr_1`, or a folder. Raises ValueError when it is neither."""
    if path.is_dir():
        return FolderImages(path)
    if not path.is_file():
        raise ValueError(f"there is neither an .npz nor a folder of images at {path}")
    try:
        with np.load(path, allow_pickle=False) as content:
            array, labels = content["arr_0"], content.get("arr_1")
    except (KeyError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is neither a folder of images nor an .npz with arr_0: {error}") from error
    check_pixels(path, array)
    named = labels is not None and labels.shape == (len(array),) and labels.dtype.kind in "iu"
    return ArrayImages(array, labels.astype(np.int64) if named else None)


def check_pixels(path: Path, array: np.ndarray) -> None:
    """Raise ValueError unless arr_0 of the file at `path` are images that a network can look at."""
    if array.ndim != 4 or array.dtype != np.uint8 or 0 in array.shape or array.shape[-1] not in (1, 3):
        raise ValueError(f"{path}: arr_0 is {array.dtype} {array.shape}; uint8 (N, H, W, C) with C 1 or 3 fits")


def write_shuffled_npz(path: Path, images: StoredImages, labels: np.ndarray) -> None:
    """Write ADM's form, arr_0 (images) and arr_1 (labels), in a random order; one image is in memory at a time."""
    order = shuffled(len(images))
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        shaped = (len(images), *images.pixels(0, 1).shape[1:])
        _write_array(archive, "arr_0", np.dtype(np.uint8), shaped, (images.pixels(i, i + 1) for i in order.tolist()))
        _write_array(archive, "arr_1", labels.dtype, labels.shape, iter([labels[order]]))


def _write_array(archive: zipfile.ZipFile, name: str, dtype: np.dtype, shaped: tuple[int, ...], rows: Iterator[np.ndarray]) -> None:
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shaped}
        np.lib.format.write_array_header_1_0(file, header)
        for part in rows:
            file.write(part.tobytes())
