"""Latents of an encoding under way: what is kept, and what they become."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from marval_ray.files.encoded_parts import Parts, Progress

SCHEMA = pa.schema({"mean": pa.list_(pa.float16(), 2), "label": pa.int64()}, {"a": "b"})


def latents(labels: range) -> pa.Table:
    means = pa.FixedSizeListArray.from_arrays(pa.array(np.repeat(list(labels), 2).astype(np.float16)), 2)
    return pa.table([means, pa.array(labels)], schema=SCHEMA)


@pytest.fixture
def parts(tmp_path) -> Parts:
    """Ten images in parts of four, one of them bad, and five."""
    parts = Parts.of(tmp_path / "latents.parquet")
    parts.add(latents(range(4)), Progress(5, 1), "first")
    parts.add(latents(range(4, 9)), Progress(10, 1), "second")
    return parts


def test_the_last_part_tells_the_progress(parts, tmp_path):
    assert parts.progress() == (Progress(10, 1), "second")
    assert Parts(tmp_path / "absent").progress() == (Progress(), "")


@pytest.mark.parametrize("group", [1, 3, 4, 100])
def test_parts_become_one_file_in_their_order(parts, tmp_path, group):
    out = tmp_path / "latents.parquet"
    assert parts.join(out, group, SCHEMA) == dict.fromkeys(range(9), 1)
    file = pq.ParquetFile(out)
    assert file.read()["label"].to_pylist() == list(range(9)) and file.schema_arrow.metadata == {b"a": b"b"}
    sizes = [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]
    assert set(sizes[:-1]) <= {group} and sizes[-1] <= group
    assert not parts.folder.exists()


def test_parts_become_arrow_by_its_name(parts, tmp_path):
    parts.join(tmp_path / "latents.arrow", 4, SCHEMA)
    reader = pa.ipc.open_file(tmp_path / "latents.arrow")
    assert reader.schema.metadata == {b"a": b"b"}
    batches = [reader.get_batch(index)["label"].to_pylist() for index in range(reader.num_record_batches)]
    assert batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]


def test_nothing_becomes_no_file(tmp_path):
    with pytest.raises(ValueError, match="no image could be encoded"):
        Parts.of(tmp_path / "latents.parquet").join(tmp_path / "latents.parquet", 5, SCHEMA)
    assert list(Path(tmp_path).iterdir()) == []
