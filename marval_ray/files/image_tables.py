"""Tables of images and labels: this project's Parquet, and what Hugging Face `datasets` and its Hub write."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int64

from marval_ray.files.decoding import shown
from marval_ray.files.image_labels import number, plain, usable
from marval_ray.files.image_set import ImageSet, split_of
from marval_ray.files.table_files import ARROW, open_table

IMAGE_COLUMNS = ("image", "img", "jpg", "png", "webp")
LABEL_COLUMNS = ("label", "labels", "cls", "class", "target")
PROMPT_COLUMNS = ("prompt", "caption", "text")
SCHEMA = pa.schema({"image": pa.binary(), "label": pa.int64(), "file": pa.binary(), "row": pa.int64(), "fault": pa.string()})


@dataclass(frozen=True)
class Columns:
    """Names of the columns to read; by default the first that a file has of IMAGE_COLUMNS and of `labels`."""

    image: str | None = None
    label: str | None = None
    labels: tuple[str, ...] = LABEL_COLUMNS

    def of(self, file: Path, schema: pa.Schema) -> tuple[str, str]:
        """Return (image, label) of a file. Raises ValueError when it lacks one, or images are not encoded."""
        image = _first((self.image,) if self.image else (*IMAGE_COLUMNS, *_features(schema, "Image")), schema)
        label = _first((self.label,) if self.label else (*self.labels, *_features(schema, "ClassLabel")), schema)
        missing = [name for name, found in ((self.image or "image", image), (self.label or self.labels[0], label)) if not found]
        if not image or not label:
            raise ValueError(
                f"{file} lacks the column(s) {missing}; images need {['image', self.labels[0]]}, it has {schema.names}: "
                "name others by --image-column and --label-column"
            )
        kind = schema.field(image).type
        content = kind.field("bytes").type if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
        if not (pa.types.is_binary(content) or pa.types.is_large_binary(content)):
            raise ValueError(f"{file}: `{image}` must be binary, the bytes of image files, or a struct with `bytes`; it is {kind}")
        return image, label


def _first(names: tuple[str, ...], schema: pa.Schema) -> str | None:
    return next((name for name in names if name in schema.names), None)


def _features(schema: pa.Schema, kind: str) -> list[str]:
    """Return the column of a feature of `datasets`, when it is the only one of its kind."""
    found = [name for name, feature in _hugging_face(schema).items() if feature.get("_type") == kind]
    return found if len(found) == 1 else []


def _hugging_face(schema: pa.Schema) -> dict[str, Any]:
    """Return the features that `datasets` notes in a file's metadata."""
    info = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = info.get("info", {}).get("features", {})
    return {name: feature for name, feature in features.items() if isinstance(feature, dict)}


@dataclass(frozen=True)
class ImageTables(ImageSet):
    """Rows `rows` of `files`, by `file_numbers`; numbers are (N,) and from 0."""

    files: list[Path]
    image_column: str
    file_numbers: np.ndarray
    rows: np.ndarray

    def tables(self, start: int) -> list[pa.Table]:
        """Return a table with one row for each file: `file`, `column`, and the lists `rows` and `labels`."""
        numbers, rows, labels = self.file_numbers[start:], self.rows[start:], self.labels[start:]
        return [
            pa.table({
                "file": [os.fsencode(self.files[number])],
                "column": [self.image_column],
                "rows": [rows[numbers == number]],
                "labels": [labels[numbers == number]],
            })
            for number in np.unique(numbers)
        ]  # fmt: skip

    @staticmethod
    def read(task: pa.Table) -> Iterator[pa.Table]:
        """Yield the images of one row of `tables` as tables of SCHEMA; `fault` says why an image is null."""
        (place,) = task.to_pylist()
        rows, labels, done = np.array(place["rows"]), pa.array(place["labels"], pa.int64()), 0
        try:
            for images in open_table(Path(os.fsdecode(place["file"]))).values(place["column"], rows):
                stop = done + len(images)
                yield _table(_content(images), labels[done:stop], rows[done:stop], place["file"], "holds no image")
                done = stop
        except (OSError, pa.ArrowInvalid) as error:
            nothing = pa.nulls(len(rows) - done, pa.binary())
            yield _table(nothing, labels[done:], rows[done:], place["file"], f"cannot be read: {error}")

    def pick(self, numbers: Int64[np.ndarray, " M"]) -> "ImageTables":
        return replace(self, labels=self.labels[numbers], file_numbers=self.file_numbers[numbers], rows=self.rows[numbers])

    def places(self, stop: int) -> bytes:
        files = "\0".join(f"{shown(str(self.files[n]))} {self.files[n].stat().st_size}" for n in np.unique(self.file_numbers[:stop]))
        return files.encode() + self.file_numbers[:stop].tobytes() + self.rows[:stop].tobytes()


def list_rows(files: list[Path], columns: Columns, skip_bad: bool, left_out: Counter[str]) -> ImageTables:
    """List all rows of `files` that have a label.

    Raises ValueError when columns do not fit, the files contradict each other, or there are no rows; and at the first
    row whose label is missing, negative or beyond the names, unless `skip_bad`, which leaves these rows out.
    """
    found = [_read_labels(file, columns) for file in files]
    if len({(image, names) for image, _, names in found}) > 1:
        raise ValueError(f"{files[0]} and the files beside it differ in their image columns or class names: give one of them")
    labels, text_names = number([labels for _, labels, _ in found])
    names = text_names or found[0][2]
    counts = [len(labels) for _, labels, _ in found]
    file_numbers = np.repeat(np.arange(len(files)), counts)
    rows = np.concatenate([np.arange(count) for count in counts])
    good = usable(labels, names, lambda i: f"{files[file_numbers[i]]} row {rows[i]}", skip_bad, left_out)
    if not good.any():
        raise ValueError(f"{files[0].parent if len(files) > 1 else files[0]} holds no rows{' with a class' * len(good[:1])}")
    return ImageTables(labels[good], names, +left_out, files, found[0][0], file_numbers[good], rows[good])


def _read_labels(file: Path, columns: Columns) -> tuple[str, pa.ChunkedArray, tuple[str, ...] | None]:
    """Return (image column, labels, class names) of a file."""
    try:
        table = open_table(file)
        image, label = columns.of(file, table.schema)
        stored = table.column(label)
    except (OSError, pa.ArrowInvalid) as error:
        raise ValueError(f"{file} is not a readable {'Arrow stream' if file.name.endswith(ARROW) else 'Parquet file'}: {error}") from error
    names = _hugging_face(table.schema).get(label, {}).get("names")
    return image, plain(stored, f"{file}: `{label}`"), tuple(names) if names else None


def pick_split(folder: Path, files: list[Path], split: str, left_out: Counter[str]) -> list[Path]:
    """Return those of `files` whose names or folders tell that they are of `split`; all when none tells a split.

    Raises ValueError when there are other splits only.
    """
    splits = {file: split_of(file.name) or split_of(str(file.parent.relative_to(folder))) for file in files}
    named = sorted({name for name in splits.values() if name})
    if not named:
        return files
    if split not in named:
        raise ValueError(f"{folder} holds the split(s) {', '.join(named)} and no {split}: choose by --split")
    left_out[f"files of other splits than {split}"] += sum(name != split for name in splits.values())
    return [file for file in files if splits[file] == split]


def _content(images: pa.Array) -> pa.Array:
    """Return the bytes of image files, which `datasets` keeps beside a path."""
    images = pc.struct_field(images, "bytes") if pa.types.is_struct(images.type) else images
    return images.cast(pa.binary())


def _table(images: pa.Array, labels: pa.Array, rows: np.ndarray, file: bytes, fault: str) -> pa.Table:
    faults = pc.if_else(images.is_null(), fault, "")
    return pa.table([images, labels, pa.array([file] * len(rows), pa.binary()), pa.array(rows), faults], schema=SCHEMA)
