"""Folders in the layout of `save_to_disk` of `datasets` 5.2."""

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import refuse, succeed

from marval_ray.embedded import assets_index
from marval_ray.files.find_images import find_images
from marval_ray.files.image_tables import Columns, ImageTables
from marval_ray.files.latents import CLASSES

ENCODE = "jobs/encode.py"
NAMES = [f"class {n}" for n in range(10)]
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def save(folder: Path, shards: list[pa.Table], **state: object) -> Path:
    """What `save_to_disk` makes of an `Image` and a `ClassLabel`; record batches of three rows."""
    folder.mkdir(parents=True)
    features = {"image": {"_type": "Image"}, "label": {"names": NAMES, "_type": "ClassLabel"}}
    files = [f"data-{number:05d}-of-{len(shards):05d}.arrow" for number in range(len(shards))]
    for file, shard in zip(files, shards):
        images = pa.array([{"bytes": image, "path": None} for image in shard["image"].to_pylist()], STRUCT)
        table = pa.table({"image": images, "label": shard["label"]})
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        with pa.ipc.new_stream(str(folder / file), table.schema) as stream:
            stream.write_table(table, max_chunksize=3)
    known = {"_data_files": [{"filename": file} for file in files], "_fingerprint": "0", "_format_type": None, "_split": None}
    (folder / "state.json").write_text(json.dumps(known | state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
    return folder


@pytest.fixture
def images() -> pa.Table:
    return pq.read_table(assets_index.IMAGES).slice(0, 10)


@pytest.fixture
def splits(images, tmp_path) -> Path:
    save(tmp_path / "saved" / "train", [images.slice(0, 7), images.slice(7, 3)])
    save(tmp_path / "saved" / "test", [images.slice(0, 2)])
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    return tmp_path / "saved"


def find(path: Path, **options: object) -> ImageTables:
    found = find_images(path, Columns(), **options)
    assert isinstance(found, ImageTables)
    return found


def contents(found: ImageTables, start: int = 0) -> list[tuple]:
    """(image, label) of each, as workers read them."""
    return [(row["image"], row["label"]) for task in found.tables(start) for table in found.read(task) for row in table.to_pylist()]


def test_shards_are_read_in_their_order_from_any_row_on(splits, images):
    found, expected = find(splits), list(zip(images["image"].to_pylist(), images["label"].to_pylist()))
    assert found.names == tuple(NAMES) and found.left_out == Counter({"split(s) other than train": 1})
    for start in range(10):
        assert contents(found, start) == expected[start:]
    assert contents(find(splits, split="test")) == expected[:2] == contents(find(splits / "test"))
    assert contents(find(splits / "train" / "data-00001-of-00002.arrow")) == expected[7:]


def test_rows_without_an_image_or_a_class_are_named(tmp_path, images):
    rows = images.to_pylist()[:5]
    rows[1]["image"], rows[3]["label"] = None, -1
    folder = save(tmp_path / "saved", [pa.Table.from_pylist(rows, pa.schema({"image": pa.binary(), "label": pa.int64()}))])
    with pytest.raises(ValueError, match="arrow row 3 has label -1"):
        find(folder)
    found = find(folder, skip_bad=True)
    assert contents(found) == [(rows[n]["image"], rows[n]["label"]) for n in (0, 1, 2, 4)]
    (table,) = (table for task in found.tables(0) for table in found.read(task) if any(table["fault"].to_pylist()))
    assert table["fault"].to_pylist() == ["", "holds no image", ""]


def test_what_cannot_be_read_is_told_in_one_line(splits, tmp_path, images):
    with pytest.raises(ValueError, match="holds the split.s. train, test and no validation: choose by --split"):
        find(splits, split="validation")
    old = save(tmp_path / "old", [images], _indices_data_files=[{"filename": "indices.arrow"}])
    message = refuse(ENCODE, "--images", old, "--out", tmp_path / "latents.parquet")
    assert message == f"error: {old} keeps a selection of rows by their numbers: call its flatten_indices(), then save_to_disk() again"
    (old / "state.json").write_text("{}")
    with pytest.raises(ValueError, match="state.json is not what save_to_disk.. of `datasets` writes: it lists no _data_files"):
        find(old)


@pytest.mark.parametrize("damage", ["cut", "empty", "gone", "of another kind"])
def test_a_damaged_stream_is_named(splits, damage):
    path = splits / "train" / "data-00001-of-00002.arrow"
    found, content = find(splits), path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes({"cut": content[:900], "empty": b"", "of another kind": b"ARROW1\0\0" + content}[damage])
    with pytest.raises(ValueError, match="data-00001-of-00002.arrow is not a readable Arrow stream: "):
        find(splits)
    faults = [row["fault"] for task in found.tables(5) for table in found.read(task) for row in table.to_pylist()]
    assert faults[:2] == ["", ""] and len(faults) == 5 and all(fault.startswith("cannot be read: ") for fault in faults[2:])


def test_offsets_that_point_elsewhere_are_damage(tmp_path):
    """Arrow itself would follow them out of the file."""
    broken = pa.Array.from_buffers(pa.binary(), 2, [None, pa.py_buffer(b"\0\0\0\0\xff\xff\xff\x7f\4\0\0\0"), pa.py_buffer(b"abcd")])
    table = pa.table({"image": broken, "label": [0, 1]})
    with pa.ipc.new_stream(str(tmp_path / "x.arrow"), table.schema) as stream:
        stream.write_table(table)
    found = find(tmp_path / "x.arrow")
    faults = [row["fault"] for task in found.tables(0) for part in found.read(task) for row in part.to_pylist()]
    assert len(faults) == 2 and all("cannot be read: " in fault and "offset" in fault for fault in faults)


@pytest.mark.slow  # Ray starts twice
def test_the_same_latents_as_from_parquet(splits, images, tmp_path):
    pq.write_table(images, tmp_path / "images.parquet")
    for source, out in ((tmp_path / "images.parquet", "a.parquet"), (splits, "b.parquet")):
        succeed(ENCODE, "--images", source, "--out", tmp_path / out, "--batch", 4)
    a, b = (pq.read_table(tmp_path / name) for name in ("a.parquet", "b.parquet"))
    assert a.equals(b) and json.loads(b.schema.metadata[CLASSES]) == NAMES
