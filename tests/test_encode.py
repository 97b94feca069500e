"""Images to latents by the real command, against the shipped latents of the same images."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from commands import refuse, succeed

from marval_ray import assets_index
from marval_ray.images import decode_image, encode_png

ENCODE = "jobs/encode.py"
COUNT = 20


@pytest.fixture
def images(tmp_path) -> Path:
    path = tmp_path / "images.parquet"
    pq.write_table(pq.read_table(assets_index.IMAGES).slice(0, COUNT), path)
    return path


def columns(path: Path) -> dict[str, np.ndarray]:
    table = pq.read_table(path).slice(0, COUNT).combine_chunks()
    flat = {name: table[name].combine_chunks().flatten().to_numpy().astype(float) for name in ("mean", "std")}
    return {name: values.reshape(len(table), -1) for name, values in flat.items()} | {"label": table["label"].to_numpy()}


def test_latents_equal_the_shipped_ones(images, tmp_path):
    succeed(ENCODE, "--images", images, "--out", tmp_path / "latents.parquet", "--batch", 8, "--group", 5)
    got, expected = columns(tmp_path / "latents.parquet"), columns(assets_index.LATENTS)
    assert got["label"].tolist() == expected["label"].tolist()
    for name in ("mean", "std"):
        assert np.abs(got[name] - expected[name]).max() < 5e-3  # both rounded to half precision
    assert pq.ParquetFile(tmp_path / "latents.parquet").num_row_groups == 4
    assert "exists already" in refuse(ENCODE, "--images", images, "--out", tmp_path / "latents.parquet")


def test_a_folder_of_classes_is_encoded_with_mirror_images(images, tmp_path):
    rows = pq.read_table(images).to_pylist()
    for index, row in enumerate(rows[:4]):
        folder = tmp_path / "classes" / ("boot" if index % 2 else "ankle")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{index}.png").write_bytes(row["image"])
    folder = tmp_path / "classes"
    succeed(ENCODE, "--images", folder, "--out", tmp_path / "latents.parquet", "--flip")
    got, shipped = columns(tmp_path / "latents.parquet"), columns(assets_index.LATENTS)
    assert got["label"].tolist() == [0] * 4 + [1] * 4
    for place, image in zip((0, 2, 4, 6), (0, 2, 1, 3)):
        assert np.abs(got["mean"][place] - shipped["mean"][image]).max() < 5e-3
    assert np.abs(got["mean"][0] - got["mean"][1]).max() > 0.1


def test_bad_images_are_refused(images, tmp_path):
    out = ("--out", tmp_path / "latents.parquet")
    assert "there are no images at" in refuse(ENCODE, "--images", tmp_path / "absent", *out)
    pq.write_table(pq.read_table(images).drop_columns(["label"]), tmp_path / "lacking.parquet")
    assert "lacks the column(s) ['label']" in refuse(ENCODE, "--images", tmp_path / "lacking.parquet", *out)
    assert "--size 30 is not a multiple of 4" in refuse(ENCODE, "--images", images, "--size", 30, *out)
    assert not (tmp_path / "latents.parquet").exists()


def test_png_keeps_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    assert np.array_equal(decode_image(encode_png(pixels)), pixels)
    assert np.array_equal(decode_image(encode_png(pixels[..., :1])), pixels[..., :1])
