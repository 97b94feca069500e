"""The normaliser of an autoencoder of one's own, measured by the real command."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from commands import outputs, refuse

from actors.encoder import Decoder, Encoder
from marval_ray.embedded import assets_index
from marval_ray.families.mar.autoencoder import load_vae
from marval_ray.families.mar.normaliser import ImageMoments, Spread
from marval_ray.files.find_images import find_images
from marval_ray.files.image_tables import Columns
from marval_ray.files.latent_files import write_latents
from marval_ray.files.latents import LatentDataset

NORMALISER = "jobs/normaliser.py"
COUNT = 400


def test_moments_in_parts_are_those_of_all_values():
    latents = torch.randn(6, 3, 4, 4, dtype=torch.float64) * torch.tensor([1.0, 2, 3])[:, None, None] + 1000
    moments = ImageMoments.cat(ImageMoments.of(part) for part in latents.split(4))
    for spread, values in ((moments.channels(), latents.transpose(0, 1).flatten(1)), (moments.all(), latents.reshape(1, -1))):
        assert torch.allclose(spread.mean, values.mean(1)) and torch.allclose(spread.std, values.std(1, correction=0))


def test_standard_errors_are_what_repetitions_differ_by():
    """Values of an image share an offset and a size, so that they tell less than as many independent ones."""
    random = torch.Generator().manual_seed(0)

    def repetition() -> Spread:
        offset, size = (torch.randn(50, 1, 1, 1, generator=random) for _ in range(2))
        return ImageMoments.of(offset + (0.5 + size.abs()) * torch.randn(50, 1, 4, 4, generator=random)).all()

    spreads = [repetition() for _ in range(400)]
    for name in ("mean", "std"):
        found = torch.cat([getattr(spread, name) for spread in spreads]).std()
        told = torch.cat([getattr(spread, f"{name}_se") for spread in spreads]).mean()
        assert told.item() == pytest.approx(found.item(), rel=0.1)


@pytest.fixture
def images(tmp_path) -> Path:
    pq.write_table(pq.read_table(assets_index.IMAGES).slice(0, COUNT), tmp_path / "images.parquet", row_group_size=100)
    return tmp_path / "images.parquet"


@pytest.fixture
def vae(tmp_path) -> Path:
    """The embedded one, as if nobody had measured its latents."""
    folder = shutil.copytree(assets_index.VAE, tmp_path / "vae")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"latents_mean": None, "latents_std": None, "scaling_factor": 1.0}))
    return folder


def latents(images: Path, vae: Path, path: Path) -> torch.Tensor:
    """What a learner draws of them, (N, C, h, w)."""
    table = pq.read_table(images)
    rows = {"image": np.array(table["image"].to_pylist(), dtype=object), "label": table["label"].to_numpy()}
    rows |= {"file": np.array([b"x"] * COUNT, dtype=object), "row": np.arange(COUNT)}
    encoded = Encoder(vae, "cpu")(Decoder(32, 1, "pad")(rows))
    shape = (COUNT, 4, 8, 8)
    write_latents(path, encoded["mean"].reshape(shape), encoded["std"].reshape(shape), encoded["label"])
    return LatentDataset(path, shape[1:]).batch(0, 0, COUNT)[0]


@pytest.mark.parametrize("what", ["number", "channels"])
def test_what_is_measured_and_written_gives_a_learner_unit_variance(images, vae, what, tmp_path):
    raw = latents(images, vae, tmp_path / "raw.parquet")
    printed, _ = outputs(NORMALISER, "--images", images, "--vae", vae, "--write", what)
    assert f"latents of {COUNT} images" in printed and f"{vae}/config.json has it; the codec is " in printed
    written = load_vae(vae)
    dims = (0, 2, 3) if what == "channels" else (0, 1, 2, 3)
    mean, std = raw.mean(dims), raw.std(dims)
    assert torch.allclose(written.shift.flatten(), mean, atol=0.02)  # other draws of the same posteriors
    assert torch.allclose(1 / written.scale.flatten(), std, rtol=0.01)
    seen = latents(images, vae, tmp_path / "seen.parquet")
    assert torch.allclose(seen.mean(dims), torch.zeros_like(mean), atol=0.01)
    assert torch.allclose(seen.std(dims), torch.ones_like(std), atol=0.01)


def test_a_random_choice_without_the_bad_ones_is_measured(images, vae, tmp_path):
    rows = pq.read_table(images).to_pylist()[:20]
    rows[3]["image"] = b"no image"
    pq.write_table(pa.Table.from_pylist(rows), images)
    printed, progress = outputs(NORMALISER, "--images", images, "--vae", vae, "--batch", 6)
    assert "latents of 19 images" in printed and f"left out: {images} row 3 cannot be decoded" in progress
    first, again, other = (outputs(NORMALISER, "--images", images, "--vae", vae, "--count", 5, "--seed", seed)[0] for seed in (0, 0, 1))
    assert "latents of 5 images" in first and first == again != other


def test_autoencoders_without_a_place_for_it_are_refused(images, tmp_path):
    options = ("--images", images, "--write", "number")
    (tmp_path / "kl16.ckpt").write_bytes(b"")
    assert "kl16.ckpt is a file, which cannot hold a normaliser" in refuse(NORMALISER, *options, "--vae", tmp_path / "kl16.ckpt")
    (tmp_path / "config.json").write_text('{"_class_name": "DeTok"}')
    assert "whose normaliser is by channel: --write channels" in refuse(NORMALISER, *options, "--vae", tmp_path)


def test_a_choice_of_any_kind_of_images_is_read_in_its_order(tmp_path):
    """Of rows of Parquet, members of a tar file, and files in folders of classes."""
    table = pq.read_table(assets_index.IMAGES).slice(0, 7)
    contents = table["image"].to_pylist()
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    (tmp_path / "classes" / "cat").mkdir(parents=True)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for number, content in enumerate(contents):
            (tmp_path / "classes" / "cat" / f"{number}.png").write_bytes(content)
            for ending, part in (("png", content), ("cls", b"0")):
                info = tarfile.TarInfo(f"{number}.{ending}")
                info.size = len(part)
                archive.addfile(info, io.BytesIO(part))
    chosen = np.array([1, 2, 6])
    for path in (tmp_path / "a.parquet", tmp_path / "a.tar", tmp_path / "classes"):
        picked = find_images(path, Columns()).pick(chosen)
        rows = [row for part in picked.read_here() for row in part.to_pylist()]
        found = [row["image"] if "image" in row else Path(row["path"].decode()).read_bytes() for row in rows]
        assert len(picked) == 3 and found == [contents[number] for number in chosen]
