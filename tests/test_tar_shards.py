"""Tar files as WebDataset has them."""

import io
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from commands import refuse, succeed

from marval_ray.embedded import assets_index
from marval_ray.files.find_images import find_images
from marval_ray.files.image_tables import Columns
from marval_ray.files.images import encode_png
from marval_ray.files.tar_shards import TarShards

ENCODE = "jobs/encode.py"
PNG = [encode_png(np.full((4, 4, 1), value, np.uint8)) for value in range(9)]


def shard(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def find(path: Path, **options: bool) -> TarShards:
    found = find_images(path, Columns(), **options)
    assert isinstance(found, TarShards)
    return found


def rows(found: TarShards, start: int = 0) -> list[tuple]:
    """(image, label) of each, as workers read them."""
    return [
        (row["image"], row["label"]) for task in found.tables(start) for table in found.read(task) for row in table.to_pylist()
    ]


def test_members_of_one_name_are_one_image(tmp_path):
    """Class numbers in .cls or in JSON, in any order; names of other folders are other images."""
    shard(tmp_path / "train-0.tar", {
        "a/0.png": PNG[0], "a/0.cls": b"1\n", "a/1.cls": b"0", "a/1.PNG": PNG[1], "b/0.png": PNG[2], "b/0.json": b'{"label": 2}',
        "a/0.txt": b"a caption", "a/._0.png": b"of a Mac",
    })  # fmt: skip
    shard(tmp_path / "train-1.tar", {"c.jpg": PNG[3], "c.cls": b"1"})
    (tmp_path / "README").write_text("about")
    found = find(tmp_path)
    assert found.labels.tolist() == [1, 0, 2, 1] and found.names is None
    assert rows(found) == [(PNG[0], 1), (PNG[1], 0), (PNG[2], 2), (PNG[3], 1)] and rows(found, 2) == rows(found)[2:]
    assert found.left_out == Counter({"beside the tar files": 1, "of another kind (.txt)": 1})
    assert found.digest(4, "") != found.digest(3, "")


def test_names_of_classes_are_numbered_in_their_order(tmp_path):
    found = find(shard(tmp_path / "x.tar", {"0.png": PNG[0], "0.cls": b"dog", "1.png": PNG[1], "1.cls": b"cat"}))
    assert found.names == ("cat", "dog") and found.labels.tolist() == [1, 0]


def test_what_has_no_class_is_named_or_left_out(tmp_path):
    path = shard(tmp_path / "x.tar", {"0.png": PNG[0], "0.cls": b"3", "1.png": PNG[1], "2.png": PNG[2], "2.cls": b"-1"})
    with pytest.raises(ValueError, match=r"x.tar image 1 has no label: --skip-bad leaves out such rows, 2 of 3"):
        find(path)
    found = find(path, skip_bad=True)
    assert rows(found) == [(PNG[0], 3)] and found.left_out == Counter({"without a class": 2})


@pytest.mark.parametrize("ending", [".tar.gz", ".tar"])
def test_files_that_are_no_plain_tar_are_refused(ending, tmp_path):
    path = tmp_path / f"x{ending}"
    if ending == ".tar":
        path.write_bytes(b"no tar at all" * 100)
    else:
        shard(path, {"0.png": PNG[0], "0.cls": b"1"}, "w:gz")
    with pytest.raises(ValueError, match=r"is not a readable tar file .*compressed ones have to be unpacked first"):
        find(path)
    with pytest.raises(ValueError, match=r"empty.tar holds no images: members such as NAME.jpg beside NAME.cls"):
        find(shard(tmp_path / "empty.tar", {"0.cls": b"1"}))


def test_a_shard_that_lost_its_end_costs_the_images_that_are_gone(tmp_path):
    path = shard(tmp_path / "x.tar", {f"{i}.{kind}": content for i in range(3) for kind, content in (("png", PNG[i]), ("cls", b"0"))})
    found = find(path)
    path.unlink()
    faults = [row["fault"] for task in found.tables(0) for table in found.read(task) for row in table.to_pylist()]
    assert faults == ["cannot be read: No such file or directory"] * 3


def test_the_same_latents_as_from_parquet(tmp_path):
    table = pq.read_table(assets_index.IMAGES).slice(0, 12)
    pq.write_table(table, tmp_path / "images.parquet")
    members = {}
    for number, row in enumerate(table.to_pylist()):
        members |= {f"{number:03d}.png": row["image"], f"{number:03d}.cls": str(row["label"]).encode()}
    cut = list(members.items())
    shard(tmp_path / "shards" / "train-000.tar", dict(cut[:14]))
    shard(tmp_path / "shards" / "train-001.tar", dict(cut[14:]))
    for images, out in ((tmp_path / "images.parquet", "a.parquet"), (tmp_path / "shards", "b.parquet")):
        succeed(ENCODE, "--images", images, "--out", tmp_path / out, "--batch", 5)
    assert pq.read_table(tmp_path / "a.parquet").equals(pq.read_table(tmp_path / "b.parquet"))
    shard(tmp_path / "bad.tar", {"0.png": b"no image", "0.cls": b"0"})
    assert "bad.tar row 0 cannot be decoded" in refuse(ENCODE, "--images", tmp_path / "bad.tar", "--out", tmp_path / "c.parquet")
