"""Columns of labels as people write them, integers, booleans, whole floats or text, as class numbers."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int64

MISSING = np.iinfo(np.int64).min
"""The number of a row without a label."""


def plain(column: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    """Return the labels of one file as int64 or string, null where there is none.

    Raises ValueError that begins with `where` when they are neither whole numbers nor text.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return column.cast(pa.string())
    if not (pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)):
        raise ValueError(f"{where} must be an integer or text, it is {kind}")
    if pa.types.is_floating(kind):  # pandas makes them of integers that lack values
        column = pc.if_else(pc.is_nan(column), None, column)
    try:
        return column.cast(pa.int64())
    except pa.ArrowInvalid as error:
        raise ValueError(f"{where} holds what is no class number: {error}") from error


def number(columns: list[pa.ChunkedArray]) -> tuple[Int64[np.ndarray, " N"], tuple[str, ...] | None]:
    """Return the class numbers of all files' labels, in order, and the classes' names where the labels are text.

    Text is numbered in alphabetical order, unless it is numbers. Raises ValueError when only some are text.
    """
    if len({column.type for column in columns}) > 1:
        raise ValueError("labels are numbers in some of the Parquet files and text in others")
    labels = pa.chunked_array([chunk for column in columns for chunk in column.chunks], columns[0].type)
    if not pa.types.is_string(labels.type):
        return _filled(labels), None
    names = sorted(set(labels.unique().to_pylist()) - {None})
    if all(name.isascii() and name.isdecimal() for name in names):
        return _filled(labels.cast(pa.int64())), None
    return _filled(pc.index_in(labels, value_set=pa.array(names, pa.string()), skip_nulls=True)), tuple(names)


def _filled(labels: pa.ChunkedArray) -> np.ndarray:
    return pc.fill_null(labels.cast(pa.int64()), MISSING).to_numpy()


def usable(
    labels: Int64[np.ndarray, " N"], names: tuple[str, ...] | None, place: Callable[[int], str], skip_bad: bool, left_out: Counter[str]
) -> Bool[np.ndarray, " N"]:
    """Tell which labels can be used; the others are counted in `left_out`. place: where image number i lies.

    Raises ValueError at the first that cannot, unless `skip_bad`.
    """
    faults = {label: reason for label in np.unique(labels).tolist() if (reason := fault(label, names))}
    bad = np.isin(labels, list(faults))
    if bad.any() and not skip_bad:
        first = int(bad.argmax())
        raise ValueError(f"{place(first)} {faults[int(labels[first])]}: --skip-bad leaves out such rows, {bad.sum():,} of {len(bad):,}")
    left_out["without a class"] += int(bad.sum())
    return ~bad


def fault(label: int, names: tuple[str, ...] | None) -> str | None:
    """Say why a class number cannot be used, None when it can."""
    if label == MISSING:
        return "has no label"
    if label < 0:
        return f"has label {label}, classes are numbered from 0"
    if names is not None and label >= len(names):
        return f"has label {label}, there are {len(names)} class names, 0 to {len(names) - 1}"
    return None
