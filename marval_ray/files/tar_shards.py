"""Tar files of images as WebDataset writes them: members NAME.jpg and NAME.cls, or NAME.json with a `label`, are one image."""

import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from marval_ray.files.decoding import shown, suffixes
from marval_ray.files.image_labels import number, usable
from marval_ray.files.image_set import ImageSet
from marval_ray.files.image_tables import SCHEMA
from marval_ray.files.table_files import ROWS

LABEL = "cls"
"""Ending of the member that holds the class, a number or a name."""


@dataclass(frozen=True)
class Sample:
    """One image of a shard: where its bytes lie, and its label as it is written."""

    offset: int
    size: int
    label: str | None


@dataclass(frozen=True)
class TarShards(ImageSet):
    """Bytes `offsets` to `offsets` + `sizes` of `files`, by `file_numbers`; images are numbered within their file by `rows`. All (N,)."""

    files: list[Path]
    file_numbers: Int64[np.ndarray, " N"]
    rows: Int64[np.ndarray, " N"]
    offsets: Int64[np.ndarray, " N"]
    sizes: Int64[np.ndarray, " N"]

    def tables(self, start: int) -> list[pa.Table]:
        """Return a table with one row for each file: `file`, and the lists `rows`, `offsets`, `sizes` and `labels`."""
        numbers = self.file_numbers[start:]
        columns = {"rows": self.rows, "offsets": self.offsets, "sizes": self.sizes, "labels": self.labels}
        return [
            pa.table({"file": [os.fsencode(self.files[n])]} | {name: [values[start:][numbers == n]] for name, values in columns.items()})
            for n in np.unique(numbers)
        ]

    def pick(self, numbers: Int64[np.ndarray, " M"]) -> "TarShards":
        kept = {name: getattr(self, name)[numbers] for name in ("labels", "file_numbers", "rows", "offsets", "sizes")}
        return replace(self, **kept)

    def places(self, stop: int) -> bytes:
        files = "\0".join(shown(str(self.files[n])) for n in np.unique(self.file_numbers[:stop]))
        return files.encode() + b"".join(part[:stop].tobytes() for part in (self.file_numbers, self.offsets, self.sizes))

    @staticmethod
    def read(task: pa.Table) -> Iterator[pa.Table]:
        """Yield the images of one row of `tables` as tables of SCHEMA; `fault` says why an image is null."""
        (place,) = task.to_pylist()
        members = list(zip(place["rows"], place["offsets"], place["sizes"], place["labels"]))
        for first in range(0, len(members), ROWS):
            yield _read_members(place["file"], members[first : first + ROWS])


def _read_members(file: bytes, members: list[tuple[int, int, int, int]]) -> pa.Table:
    rows, offsets, sizes, labels = zip(*members)
    images: list[bytes | None] = []
    fault = ""
    try:
        with open(os.fsdecode(file), "rb") as shard:
            for offset, size in zip(offsets, sizes):
                shard.seek(offset)
                images.append(shard.read(size))
    except OSError as error:
        fault = f"cannot be read: {error.strerror}"
    missing = len(members) - len(images)
    faults = [""] * len(images) + [fault] * missing
    columns = [pa.array([*images, *[None] * missing], pa.binary()), labels, [file] * len(members), rows, faults]
    return pa.table(dict(zip(SCHEMA.names, columns)), schema=SCHEMA)


def list_samples(files: list[Path], skip_bad: bool, left_out: Counter[str]) -> TarShards:
    """List all images of `files`.

    Raises ValueError when a file is no plain tar or holds no images, and at the first image whose label is missing or
    negative, unless `skip_bad`, which leaves these out.
    """
    found = [_samples(file, left_out) for file in files]
    empty = next((file for file, samples in zip(files, found) if not samples), None)
    if empty:
        raise ValueError(f"{empty} holds no images: members such as NAME.jpg beside NAME.cls, a class, are read")
    samples = [sample for part in found for sample in part]
    labels, names = number([pa.chunked_array([_column([sample.label for sample in samples])])])
    file_numbers = np.repeat(np.arange(len(files)), [len(part) for part in found])
    rows = np.concatenate([np.arange(len(part)) for part in found])
    good = usable(labels, names, lambda i: f"{files[file_numbers[i]]} image {rows[i]}", skip_bad, left_out)
    if not good.any():
        raise ValueError(f"{files[0]} holds no images with a class")
    offsets, sizes = (np.array([getattr(sample, name) for sample in samples]) for name in ("offset", "size"))
    return TarShards(labels[good], names, +left_out, files, file_numbers[good], rows[good], offsets[good], sizes[good])


def _column(labels: list[str | None]) -> pa.Array:
    """Return the labels as numbers if all of them are, else as names."""
    if all(label is None or re.fullmatch(r"[+-]?\d+", label, re.ASCII) for label in labels):
        return pa.array([None if label is None else int(label) for label in labels], pa.int64())
    return pa.array(labels, pa.string())


def _samples(file: Path, left_out: Counter[str]) -> list[Sample]:
    """List the images of one shard in their order; members of other kinds are counted."""
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, str] = {}
    known = suffixes()
    try:
        with tarfile.open(file, "r:") as shard:
            for member in shard:
                folder, _, base = member.name.rpartition("/")
                stem, _, ending = base.partition(".")
                key = f"{folder}/{stem}"
                if not member.isfile() or base.startswith("."):
                    continue
                if f".{ending.lower()}" in known:
                    images[key] = member.offset_data, member.size
                elif ending in (LABEL, "json"):
                    label = _label(shard.extractfile(member).read(), ending)  # type: ignore[union-attr]  # it is a file
                    if label is not None:
                        labels.setdefault(key, label)
                else:
                    left_out[f"of another kind (.{shown(ending)})"] += 1
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{file} is not a readable tar file ({error}); compressed ones have to be unpacked first") from error
    return [Sample(*place, labels.get(key)) for key, place in images.items()]


def _label(content: bytes, ending: str) -> str | None:
    """Return the label of a member, as text; None when it holds none."""
    text = content.decode(errors="replace").strip()
    if ending == LABEL:
        return text or None
    try:
        label = json.loads(text).get("label")
    except (ValueError, AttributeError):  # no JSON, or no object
        return None
    return None if label is None else str(label)
