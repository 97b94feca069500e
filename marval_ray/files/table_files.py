"""Files of tables: Parquet, and Arrow's IPC streams, as `datasets` keeps them on disk."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64

ROWS = 64
"""Images in memory at a time where they are read."""
BUFFER = 1 << 20
"""Bytes of a column read at a time: a row group may be larger than memory."""
ARROW = ".arrow"


class TableFile(ABC):
    """One file. Everything raises pa.ArrowInvalid or OSError when it is damaged."""

    schema: pa.Schema

    @abstractmethod
    def column(self, name: str) -> pa.ChunkedArray:
        """Return a whole column."""

    @abstractmethod
    def _parts(self, name: str, rows: Int64[np.ndarray, " N"]) -> Iterator[tuple[int, pa.Array]]:
        """Yield (number of the first row, ROWS values of a column at most), at least where some of `rows` are."""

    def values(self, name: str, rows: Int64[np.ndarray, " N"]) -> Iterator[pa.Array]:
        """Yield the values of a column in `rows`, which rise, ROWS at a time at most."""
        for first, part in self._parts(name, rows):
            start, stop = np.searchsorted(rows, (first, first + len(part)))
            if start < stop:
                yield part.take(pa.array(rows[start:stop] - first))


class ParquetTable(TableFile):
    def __init__(self, file: Path):
        self.parquet = pq.ParquetFile(file, buffer_size=BUFFER)
        self.schema = self.parquet.schema_arrow

    def column(self, name: str) -> pa.ChunkedArray:
        return self.parquet.read([name])[name]

    def _parts(self, name: str, rows: Int64[np.ndarray, " N"]) -> Iterator[tuple[int, pa.Array]]:
        counts = [self.parquet.metadata.row_group(group).num_rows for group in range(self.parquet.num_row_groups)]
        ends = np.cumsum(counts)
        for group in np.unique(np.searchsorted(ends, rows, side="right")).tolist():
            first = int(ends[group]) - counts[group]
            for batch in self.parquet.iter_batches(ROWS, row_groups=[group], columns=[name]):
                yield first, batch.column(0)
                first += len(batch)


class ArrowStream(TableFile):
    """Mapped into memory: what is not looked at is not read."""

    def __init__(self, file: Path):
        self.table = pa.ipc.open_stream(pa.memory_map(str(file))).read_all()
        self.schema = self.table.schema

    def column(self, name: str) -> pa.ChunkedArray:
        column = self.table[name]
        column.validate(full=True)  # Arrow trusts the offsets of a stream, which may point anywhere
        return column

    def _parts(self, name: str, rows: Int64[np.ndarray, " N"]) -> Iterator[tuple[int, pa.Array]]:
        first = 0
        for chunk in self.column(name).chunks:
            for start in range(0, len(chunk), ROWS):
                yield first + start, chunk.slice(start, ROWS)
            first += len(chunk)


def open_table(file: Path) -> TableFile:
    """Open a file by its ending: .arrow is a stream, all others are Parquet."""
    return ArrowStream(file) if file.name.endswith(ARROW) else ParquetTable(file)
