"""Folders of image files, walked as torchvision's ImageFolder walks them, with a count of what is left out."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from marval_ray.files.decoding import shown, suffixes
from marval_ray.files.image_set import ImageSet, some, split_of

SYSTEM = {"__macosx", "@eadir", "lost+found", "#recycle", "$recycle.bin", "system volume information", "thumbs.db", "desktop.ini"}
"""Names, in lower case, of what systems put beside people's files; so is all that begins with a dot."""


@dataclass(frozen=True)
class ClassFolders(ImageSet):
    """Image files at `paths`, absolute."""

    paths: list[str]

    def tables(self, start: int) -> list[pa.Table]:
        """Return one table of `path`, as bytes because names need not be UTF-8, and `label`."""
        paths = pa.array([os.fsencode(path) for path in self.paths[start:]], pa.binary())
        return [pa.table({"path": paths, "label": pa.array(self.labels[start:])})]

    def pick(self, numbers: Int64[np.ndarray, " M"]) -> "ClassFolders":
        return replace(self, labels=self.labels[numbers], paths=[self.paths[number] for number in numbers])

    def places(self, stop: int) -> bytes:
        return b"\0".join(map(os.fsencode, self.paths[:stop]))


def list_classes(folder: Path, files: list[str], left_out: Counter[str]) -> ClassFolders:
    """List the images among `files`, which `walk` found, labelled by their topmost folder in alphabetical order.

    Raises ValueError when there are no classes, one of them is empty, or they are splits of the data.
    """
    classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not is_hidden(entry.name))
    if classes and all(split_of(name) for name in classes):
        raise ValueError(f"{folder} holds splits, not classes ({', '.join(classes)}): give one of them, {folder / classes[0]}")
    known = suffixes()
    numbers = {name: label for label, name in enumerate(classes)}
    paths, labels = [], []
    for path in files:
        suffix = os.path.splitext(path)[1].lower()
        top, *below = os.path.relpath(path, folder).split(os.sep)
        if suffix not in known:
            left_out[f"of another kind ({shown(suffix) or 'no suffix'})"] += 1
        elif not below:
            left_out["beside the class folders"] += 1
        else:
            paths.append(path)
            labels.append(numbers[top])
    _check(folder, classes, labels, left_out)
    return ClassFolders(np.array(labels, np.int64), tuple(map(shown, classes)), left_out, paths)


def _check(folder: Path, classes: list[str], labels: list[int], left_out: Counter[str]) -> None:
    beside = left_out["beside the class folders"]
    if beside and not classes:
        raise ValueError(f"{folder} holds {beside} images but no subfolders: images lie in a subfolder for each class")
    if not labels:
        kinds = ", ".join(sorted(suffixes()))
        raise ValueError(f"{folder} holds neither *.parquet, *.tar, a saved data set nor a subfolder with images ({kinds})")
    filled = set(labels)
    empty = [shown(name) for label, name in enumerate(classes) if label not in filled]
    if empty:
        raise ValueError(f"{folder} has class folders without images, which would have labels: {some(empty)}; fill or remove them")


def walk(folder: str, left_out: Counter[str], above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[str]:
    """Yield the files below `folder` in alphabetical order, a folder's own before those of its subfolders.

    Links are followed, but not back to a folder that they lie in. Raises OSError when a folder may not be read.
    """
    above |= {_identity(os.stat(folder))}
    with os.scandir(folder) as listing:
        entries = sorted(listing, key=lambda entry: (entry.is_dir(), entry.name))
    for entry in entries:
        if is_hidden(entry.name):
            left_out["hidden or of the system"] += 1
        elif entry.is_file() or entry.is_symlink() and not entry.is_dir():  # a broken link is a damaged image
            yield entry.path
        elif not entry.is_dir():
            left_out["neither file nor folder"] += 1
        elif _identity(entry.stat()) in above:
            left_out["link to a folder above"] += 1
        else:
            yield from walk(entry.path, left_out, above)


def is_hidden(name: str) -> bool:
    """Tell whether no person put this file or folder there to be read."""
    return name.startswith(".") or name.lower() in SYSTEM


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
