"""What is read of folders and tables of images, and that nothing is left out or renumbered without a word."""

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from marval_ray.files.class_folders import ClassFolders
from marval_ray.files.find_images import find_images
from marval_ray.files.image_set import ImageSet, summary
from marval_ray.files.image_tables import Columns, ImageTables
from marval_ray.files.images import encode_png

PNG = encode_png(np.zeros((4, 4, 1), np.uint8))
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def put(folder: Path, *names: str) -> Path:
    for name in names:
        path = os.path.join(os.fsencode(folder), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(PNG)
    return folder


def find(path: Path, *columns: str, **options: object) -> ImageSet:
    return find_images(path, Columns(*columns), **options)


def listed(path: Path) -> dict[str, int]:
    """Label of each path, relative to the folder."""
    found = find(path)
    assert isinstance(found, ClassFolders)
    return dict(zip([os.path.relpath(file, path) for file in found.paths], found.labels.tolist()))


def test_classes_are_numbered_in_alphabetical_order(tmp_path):
    put(tmp_path, "dog/1.png", "cat/b.PNG", "cat/a.JPEG")
    assert listed(tmp_path) == {"cat/a.JPEG": 0, "cat/b.PNG": 0, "dog/1.png": 1}
    assert find(tmp_path).names == ("cat", "dog")


def test_files_of_systems_are_left_out_and_counted(tmp_path):
    put(tmp_path, "cat/0.png", "dog/0.png", "cat/._0.png", "cat/.DS_Store", "cat/Thumbs.db", "dog/desktop.ini", "cat/@eaDir/0.png")
    for name in (".ipynb_checkpoints", "__MACOSX", "lost+found", "System Volume Information"):
        put(tmp_path / name, "0.png")
    assert listed(tmp_path) == {"cat/0.png": 0, "dog/0.png": 1}
    assert find(tmp_path).left_out == {"hidden or of the system": 9}


def test_deeper_folders_belong_to_their_class(tmp_path):
    put(tmp_path, "cat/0.png", "dog/puppies/small/1.png", "dog/2.png")
    assert listed(tmp_path) == {"cat/0.png": 0, "dog/2.png": 1, "dog/puppies/small/1.png": 1}


def test_other_kinds_and_places_are_left_out_and_counted(tmp_path):
    put(tmp_path, "cat/0.png", "cat/notes.txt", "cat/README", "1.png", "cat/scan.tif", "cat/photo.jfif")
    assert list(listed(tmp_path)) == ["cat/0.png", "cat/photo.jfif", "cat/scan.tif"]
    expected = {"of another kind (.txt)": 1, "of another kind (no suffix)": 1, "beside the class folders": 1}
    assert find(tmp_path).left_out == expected


def test_links_are_followed_once_and_pipes_not_opened(tmp_path):
    put(tmp_path / "images", "cat/0.png")
    put(tmp_path / "elsewhere", "1.png")
    (tmp_path / "images" / "dog").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images" / "cat" / "loop").symlink_to(tmp_path / "images")
    os.mkfifo(tmp_path / "images" / "cat" / "pipe.png")
    assert listed(tmp_path / "images") == {"cat/0.png": 0, "dog/1.png": 1}
    assert find(tmp_path / "images").left_out == {"link to a folder above": 1, "neither file nor folder": 1}


def test_names_need_not_be_utf8(tmp_path):
    put(tmp_path, "caf\udce9/\udce9.png")
    found = find(tmp_path)
    assert found.names == (r"caf\xe9",)
    (table,) = found.tables(0)
    assert table["path"].to_pylist() == [os.fsencode(tmp_path) + b"/caf\xe9/\xe9.png"]


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (["cat/0.png", "dog/notes.txt"], "class folders without images, which would have labels: dog"),
        (["0.png", "1.png"], "holds 2 images but no subfolders"),
        (["cat/notes.txt"], "holds neither .*parquet.* nor a subfolder with images"),
        (["train/cat/0.png", "val/cat/1.png"], "holds splits, not classes .train, val.: give one of them"),
    ],
)
def test_unclear_folders_are_refused(tmp_path, names, complaint):
    with pytest.raises(ValueError, match=complaint):
        find(put(tmp_path, *names))


def write(path: Path, numbers: object, images: object = None, columns: tuple[str, str] = ("image", "label"), **features: object) -> Path:
    labels = numbers if isinstance(numbers, pa.Array) else pa.array(numbers)
    table = pa.table([pa.array([PNG] * len(labels), pa.binary()) if images is None else images, labels], columns)
    if features:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=2)
    return path


@pytest.mark.parametrize(
    ("labels", "numbers", "names"),
    [
        (pa.array([2, 0, 1], pa.int8()), [2, 0, 1], None),
        (pa.array([2.0, 0.0, 1.0]), [2, 0, 1], None),
        (pa.array([True, False]), [1, 0], None),
        (pa.array(["dog", "cat", "dog"]), [1, 0, 1], ("cat", "dog")),
        (pa.array(["dog", "cat", "dog"]).dictionary_encode(), [1, 0, 1], ("cat", "dog")),
        (pa.array(["2", "10", "2"], pa.large_string()), [2, 10, 2], None),
    ],
)
def test_labels_of_every_kind(tmp_path, labels, numbers, names):
    found = find(write(tmp_path / "a.parquet", labels))
    assert found.labels.tolist() == numbers and found.names == names


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [
        ([0, None, 1], "row 1 has no label: .* 1 of 3"),
        ([0.0, float("nan")], "row 1 has no label"),
        (["cat", None], "row 1 has no label"),
        ([0, 1, -1, -1], "row 2 has label -1, classes are numbered from 0: .* 2 of 4"),
        ([0, 1, 2], "row 2 has label 2, there are 2 class names, 0 to 1"),
    ],
)
def test_rows_without_a_class_are_refused_or_left_out(tmp_path, labels, complaint):
    names = {} if isinstance(labels[0], str) else {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    path = write(tmp_path / "a.parquet", labels, **names)
    with pytest.raises(ValueError, match=complaint):
        find(path)
    kept = find(path, skip_bad=True)
    assert isinstance(kept, ImageTables) and len(kept) + kept.left_out["without a class"] == len(labels)
    assert set(kept.labels.tolist()) <= {0, 1}


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [([0.5], "holds what is no class number: .*0.5"), ([[1, 2]], "must be an integer or text, it is list"), ([], "holds no rows")],
)
def test_labels_that_are_no_classes_are_refused(tmp_path, labels, complaint):
    with pytest.raises(ValueError, match=complaint):
        find(write(tmp_path / "a.parquet", pa.array(labels) if labels else pa.array([], pa.int64())))


def test_datasets_layout_of_the_hub(tmp_path):
    label = {"names": ["cat", "dog"], "_type": "ClassLabel"}
    images = pa.array([{"bytes": PNG, "path": "0.png"}] * 2, STRUCT)
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"):
        write(tmp_path / "data" / f"{name}.parquet", [0, 1], images, ("img", "labels"), img={"_type": "Image"}, labels=label)
    (tmp_path / "README.md").write_text("a data set", encoding="utf-8")
    put(tmp_path, ".cache/huggingface/x.parquet")
    found = find(tmp_path)
    assert isinstance(found, ImageTables)
    assert found.labels.tolist() == [0, 1, 0, 1] and found.names == ("cat", "dog") and found.image_column == "img"
    assert found.left_out == {"hidden or of the system": 1, "beside the Parquet": 1, "files of other splits than train": 1}
    assert len(find(tmp_path, split="test")) == 2
    with pytest.raises(ValueError, match="holds the split.* test, train and no validation: choose by --split"):
        find(tmp_path, split="validation")


def test_columns_are_found_by_feature_or_named(tmp_path):
    path = write(tmp_path / "a.parquet", [1], None, ("photo", "breed"))
    with pytest.raises(ValueError, match=r"lacks the column\(s\) \['image', 'label'\].*'photo', 'breed'.*--image-column"):
        find(path)
    assert find(path, "photo", "breed").labels.tolist() == [1]
    write(path, [1], None, ("photo", "breed"), photo={"_type": "Image"}, breed={"_type": "ClassLabel", "names": ["a", "b"]})
    assert find(path).names == ("a", "b")


@pytest.mark.parametrize("images", [pa.array(["0.png"]), pa.array([[0, 255]]), pa.array([{"path": "0.png"}])])
def test_images_must_be_encoded(tmp_path, images):
    with pytest.raises(ValueError, match="`image` must be binary"):
        find(write(tmp_path / "a.parquet", [0], images))


def test_files_that_contradict_each_other_are_refused(tmp_path):
    write(tmp_path / "0.parquet", [0])
    write(tmp_path / "1.parquet", ["cat"])
    with pytest.raises(ValueError, match="numbers in some of the Parquet files and text in others"):
        find(tmp_path)
    write(tmp_path / "1.parquet", [0], label={"names": ["cat"]})
    with pytest.raises(ValueError, match="differ in their image columns or class names"):
        find(tmp_path)


def test_what_is_no_parquet_is_named(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"")
    with pytest.raises(ValueError, match="a.parquet is not a readable Parquet file"):
        find(tmp_path)


def rows_of(found: ImageSet, start: int = 0) -> list[tuple[int, bytes | None, str]]:
    return [
        (row["row"], row["image"], row["fault"]) for task in found.tables(start) for table in found.read(task) for row in table.to_pylist()
    ]


def test_rows_are_read_from_any_start_without_those_left_out(tmp_path):
    contents = [bytes([number]) for number in range(7)]
    images = pa.array([{"bytes": content, "path": None} for content in contents], STRUCT)
    path = write(tmp_path / "a.parquet", [0, 1, None, 0, 1, -1, 1], images)
    kept = [(number, contents[number], "") for number in (0, 1, 3, 4, 6)]
    for start in range(5):
        assert rows_of(find(path, skip_bad=True), start) == kept[start:]


def test_missing_images_are_faults(tmp_path):
    images = pa.array([{"bytes": PNG, "path": None}, {"bytes": None, "path": "b.png"}, None], STRUCT)
    path = write(tmp_path / "a.parquet", [0, 1, 2], images)
    assert rows_of(find(path)) == [(0, PNG, ""), (1, None, "holds no image"), (2, None, "holds no image")]


def test_damaged_parquet_is_a_fault_of_its_rows(tmp_path):
    path = write(tmp_path / "a.parquet", [0, 1, 2])
    found = find(path)
    path.write_bytes(path.read_bytes()[:40])
    faults = rows_of(found)
    assert [row for row, _, _ in faults] == [0, 1, 2] and all(fault.startswith("cannot be read: ") for _, _, fault in faults)


def test_digest_names_images_and_settings(tmp_path):
    put(tmp_path, "cat/0.png", "dog/0.png")
    before = find(tmp_path).digest(1, "a")
    put(tmp_path, "dog/1.png")
    assert find(tmp_path).digest(1, "a") == before
    put(tmp_path, "cat/00.png")
    assert find(tmp_path).digest(1, "a") == before and find(tmp_path).digest(2, "a") != before
    assert find(tmp_path).digest(1, "b") != before


def test_summary_counts_everything(tmp_path):
    put(tmp_path, "cat/0.png", "cat/1.png", "dog/0.png", "dog/a.txt")
    line = summary(find(tmp_path), Counter({0: 1, 1: 1}), bad=1)
    left_out = "1 of another kind (.txt), 1 that cannot be encoded"
    assert line == f"2 latents of 3 images; left out: {left_out}; classes: 0 cat (1), 1 dog (1)"


def test_summary_of_many_classes_is_short(tmp_path):
    found = find(write(tmp_path / "a.parquet", list(range(1000))))
    assert summary(found, Counter(range(1000)), 0) == "1,000 latents of 1,000 images; left out: nothing; 1,000 classes of 1 to 1, 0 to 999"
