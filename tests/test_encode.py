"""Images to latents by the real command, against the shipped latents of the same images."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import ROOT, refuse, succeed
from servers import Server, wait_until

from marval_ray.embedded import assets_index
from marval_ray.families.mar.autoencoder import load_vae
from marval_ray.families.mar.vae import codec_id
from marval_ray.files.encoded_parts import Parts
from marval_ray.files.encoding import CODEC, Encoding
from marval_ray.files.latent_files import open_latents
from marval_ray.files.latents import CLASSES, check_latents
from marval_ray.files.storage import Storage
from marval_ray.runs.lock import locked

ENCODE = "jobs/encode.py"
COUNT = 20
WORKER = "MapBatches(Encoder)"
"""In the title of a process that encodes."""


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


@pytest.mark.slow  # Ray starts twice
def test_two_workers_of_which_one_is_killed_write_what_one_writes(tmp_path):
    """Bit for bit, in the order of the images; a Ray of three CPUs has room for two workers beside the decoding."""
    pq.write_table(pq.read_table(assets_index.IMAGES).slice(0, 4000), tmp_path / "images.parquet")
    command = (ENCODE, "--images", tmp_path / "images.parquet", "--out")
    succeed(*command, tmp_path / "one.parquet")
    options = list(map(str, (sys.executable, *command, tmp_path / "two.parquet", "--workers", 2)))
    with (tmp_path / "log").open("w") as log:
        job = subprocess.Popen(options, cwd=ROOT, env=os.environ | {"RAY_OVERRIDE_RESOURCES": '{"CPU": 3}'}, stdout=log, stderr=log)
        workers = Server("", job.pid)
        try:
            at_work = "| 0/4000 [00:00"  # a second time, when the first latents are there
            wait_until(lambda: job.poll() is not None or (tmp_path / "log").read_text().count(at_work) > 1, 300)
            assert job.poll() is None, (tmp_path / "log").read_text()[-3000:]
            before = {process.pid for process in workers.processes(WORKER)}
            os.kill(min(before), signal.SIGKILL)
            wait_until(lambda: job.poll() is not None or {process.pid for process in workers.processes(WORKER)} - before, 300)
            assert job.poll() is None and len(before) == 2, before
            assert job.wait(300) == 0, (tmp_path / "log").read_text()[-3000:]
        finally:
            job.kill()
    assert pq.read_table(tmp_path / "one.parquet").equals(pq.read_table(tmp_path / "two.parquet"))


def test_an_encoding_at_work_is_left_alone(images, tmp_path):
    out = tmp_path / "latents.parquet"
    with locked(Storage.of(str(Parts.of(out).folder))):
        for options in ((), ("--resume",), ("--overwrite",)):
            assert "latents.parquet.partial belongs to process" in refuse(ENCODE, "--images", images, "--out", out, *options)
    assert [path.name for path in tmp_path.iterdir()] == ["images.parquet"]


@pytest.mark.slow  # Ray starts twice
def test_bad_images_are_listed_or_end_a_run_that_goes_on(images, tmp_path):
    """The twelfth image is cut off: batches of five leave ten that are kept."""
    rows = pq.read_table(images).to_pylist()
    rows[11]["image"] = rows[11]["image"][:100]
    broken, out = tmp_path / "broken.parquet", tmp_path / "latents.parquet"
    pq.write_table(pa.Table.from_pylist(rows), broken)
    options = ("--images", broken, "--out", out, "--batch", 5)
    assert f"error: {broken} row 11 cannot be decoded: " in refuse(ENCODE, *options)
    assert not out.exists() and len(pq.read_table(Parts.of(out).folder)) == 10
    assert "holds an interrupted encoding: --resume goes on with it" in refuse(ENCODE, *options)
    assert "holds the first 10 images of another list, or in other settings" in refuse(ENCODE, *options, "--resume", "--flip")
    printed = succeed(ENCODE, *options, "--resume", "--skip-bad")
    assert "19 latents of 20 images; left out: 1 that cannot be encoded; classes: " in printed
    got, shipped = columns(out), columns(assets_index.LATENTS)
    assert np.abs(got["mean"] - np.delete(shipped["mean"], 11, axis=0)).max() < 5e-3
    assert list(tmp_path.glob("*.partial")) == []


def test_latents_tell_their_codec_sizes_normaliser_and_classes(tmp_path):
    """What `datasets` writes, with names for its classes."""
    table = pq.read_table(assets_index.IMAGES).slice(0, 4)
    structs = pa.array([{"bytes": image, "path": None} for image in table["image"].to_pylist()])
    names = {"info": {"features": {"label": {"names": [f"class {n}" for n in range(10)], "_type": "ClassLabel"}}}}
    table = pa.table({"img": structs, "label": table["label"]}).replace_schema_metadata({"huggingface": json.dumps(names)})
    (tmp_path / "data").mkdir()
    pq.write_table(table, tmp_path / "data" / "train-00000-of-00001.parquet")
    succeed(ENCODE, "--images", tmp_path, "--out", tmp_path / "out" / "latents.arrow")
    schema, vae = open_latents(tmp_path / "out" / "latents.arrow").schema, load_vae(assets_index.VAE)
    metadata, encoding = schema.metadata, Encoding.of(schema)
    assert metadata[CODEC].decode() == codec_id(vae)
    assert encoding and (encoding.latent_shape, encoding.image_size, encoding.image_channels) == ((4, 8, 8), 32, 1)
    assert [encoding.shift, encoding.scale] == [tuple(values.flatten().tolist()) for values in (vae.shift, vae.scale)]
    check_latents(tmp_path / "out" / "latents.arrow", (4, 8, 8), 10, codec_id(vae))
    assert json.loads(metadata[CLASSES]) == [f"class {n}" for n in range(10)]


def test_bad_images_are_refused(images, tmp_path):
    out = ("--out", tmp_path / "latents.parquet")
    assert "there are no images at" in refuse(ENCODE, "--images", tmp_path / "absent", *out)
    pq.write_table(pq.read_table(images).drop_columns(["label"]), tmp_path / "lacking.parquet")
    assert "lacks the column(s) ['label']" in refuse(ENCODE, "--images", tmp_path / "lacking.parquet", *out)
    assert "--size 30 is not a multiple of 4" in refuse(ENCODE, "--images", images, "--size", 30, *out)
    assert not (tmp_path / "latents.parquet").exists()
