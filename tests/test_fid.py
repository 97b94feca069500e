"""The FID job by the real command: against torch-fidelity on the images that it wrote down, resumed, and with wrong files."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import refuse, succeed
from disks import MOUNTS, mounted
from small import write_inception
from torch_fidelity import calculate_metrics

from marval_ray.embedded import assets_index
from marval_ray.embedded.fashion_mnist import CLASS_NAMES
from marval_ray.evaluation.bootstrap import reward_figures
from marval_ray.evaluation.inception import Inception
from marval_ray.files.images import encode_png, read_images, to_tensor
from marval_ray.files.stored_images import FolderImages, open_images, write_shuffled_npz
from marval_ray.prompts import class_prompts
from marval_ray.rewards import SeparateRewards

FID = "jobs/fid.py"
REAL = 40
REWARDS = ["--rewards", "pickscore:embedded/reward", "plugin:marval_ray.rewards.compressibility:Compressibility"]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """With inception.pth in random weights, a folder of real images and reference.npz, which is of them."""
    folder = tmp_path_factory.mktemp("fid")
    inception = Inception.load(write_inception(folder / "inception.pth"))
    pixels = read_images(assets_index.IMAGES)[0][:REAL]
    (folder / "real").mkdir()
    for index, image in enumerate(pixels):
        (folder / "real" / f"{index:02d}.png").write_bytes(encode_png(image))
    seen = inception(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    moments = {
        f"{name}{suffix}": value
        for suffix, x in (("", seen.pooled), ("_s", seen.spatial))
        for name, value in (("mu", x.numpy().mean(0)), ("sigma", np.cov(x.numpy().astype(float), rowvar=False)))
    }
    np.savez(folder / "reference.npz", pixels, **moments)
    return folder


def options(place: Path) -> list:
    return ["--inception", place / "inception.pth", "--reference", place / "reference.npz"]


def scored(images: torch.Tensor, labels: torch.Tensor) -> dict:
    """What REWARDS give images of these classes."""
    texts = class_prompts([CLASS_NAMES[label] for label in labels.tolist()])
    return reward_figures(SeparateRewards.load(REWARDS[1:], torch.device("cpu"))(images, texts), labels)


@pytest.mark.slow
def test_drawn_images_are_measured_as_torch_fidelity_does_and_a_resumed_run_is_the_same(place, tmp_path):
    run = [FID, *options(place), "--labels", "0-9", "--per-label", 4, "--n-ar", 4, "--chunk", 15, "--out", tmp_path / "run", *REWARDS]
    keep = ["--keep", tmp_path / "samples"]
    text = succeed(*run, *keep, "--workers.count", 2)
    figures = json.loads((tmp_path / "run" / "figures.json").read_text())
    assert (tmp_path / "run" / "row.md").read_text() in text and "| FID | sFID | IS |" in text
    theirs = calculate_metrics(
        input1=str(tmp_path / "samples"), input2=str(place / "real"), fid=True, isc=True, prc=True, cuda=False, cache=False,
        feature_extractor_weights_path=str(place / "inception.pth"), feature_extractor="inception-v3-compat", verbose=False,
    )  # fmt: skip
    assert figures["fid"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-3) and figures["fid"] > 1
    assert figures["inception_score"] == pytest.approx(theirs["inception_score_mean"], rel=1e-5)
    assert [figures["precision"], figures["recall"]] == pytest.approx([theirs["precision"], theirs["recall"]], abs=1e-6)
    assert figures["sfid"] > 0 and figures["kid"] is None
    images = to_tensor(FolderImages(tmp_path / "samples").pixels(0, 40))
    labels = torch.arange(10).repeat_interleave(4)
    assert {name: figures[name] for name in figures if name.startswith("reward/") or name == "prompts"} == pytest.approx(
        scored(images, labels), rel=1e-4
    )
    assert "| KID | prompts | pickscore | compressibility |" in text

    whole = FolderImages(tmp_path / "samples").pixels(0, 40)
    (tmp_path / "run" / "samples" / "000001.safetensors").unlink()
    assert "holds a run already: --resume goes on" in refuse(*run)
    assert "began with other settings (seed)" in refuse(*run, "--resume", "--seed", 1)
    succeed(*run, "--resume", "--keep", tmp_path / "again")
    again = json.loads((tmp_path / "run" / "figures.json").read_text())
    same = ("fid", "sfid", "inception_score", "precision", "recall", "reward/pickscore", "reward/pickscore_se")
    assert {name: again[name] for name in same} == pytest.approx({name: figures[name] for name in same}, rel=1e-6)
    assert (FolderImages(tmp_path / "again").pixels(0, 15) == whole[15:30]).all()  # the one piece that was missing
    (tmp_path / "run" / "samples" / "000002.safetensors").unlink()
    assert "10 of 40 images were kept" in refuse(*run, "--resume", "--keep", tmp_path / "x.npz")
    succeed(*run, "--overwrite", "--keep", tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz", allow_pickle=False) as content:
        assert len(content["arr_0"]) == 40 and content["arr_1"].tolist() != sorted(content["arr_1"].tolist())


@pytest.mark.slow
def test_images_in_an_npz_are_measured_too(place, tmp_path):
    """The reference's own: no distance, and all of them among themselves; rewards score them with the prompts of their classes."""
    labels = read_images(assets_index.IMAGES)[1][:REAL]
    write_shuffled_npz(tmp_path / "images.npz", open_images(place / "real"), labels)
    (tmp_path / "prompts.txt").write_text("\n".join(class_prompts(CLASS_NAMES)), encoding="utf-8")
    rewarded = [*REWARDS[:2], "--prompts", tmp_path / "prompts.txt"]
    succeed(FID, *options(place), "--images", tmp_path / "images.npz", "--out", tmp_path / "run", *rewarded)
    figures = json.loads((tmp_path / "run" / "figures.json").read_text())
    assert figures["fid"] == pytest.approx(0, abs=1e-3) and figures["sfid"] == pytest.approx(0, abs=1e-3)
    assert figures["precision"] == figures["recall"] == 1
    images, labels = to_tensor(open_images(place / "real").pixels(0, REAL)), torch.from_numpy(labels.copy())
    assert figures["reward/pickscore"] == pytest.approx(scored(images, labels)["reward/pickscore"], rel=1e-4)
    assert figures["reward/pickscore"] > scored(images, (labels + 1) % 10)["reward/pickscore"] + 1


@pytest.mark.slow
@MOUNTS
def test_a_full_disk_ends_it_in_one_line_and_it_goes_on_when_there_is_room(place, tmp_path):
    disk = tmp_path / "disk"
    with np.load(place / "reference.npz", allow_pickle=False) as content:
        np.savez(tmp_path / "moments.npz", **{name: content[name] for name in ("mu", "sigma", "mu_s", "sigma_s")})
    run = [FID, *options(place), "--reference", tmp_path / "moments.npz", "--out", disk / "run", "--keep", disk / "samples.npz", *REWARDS]
    run += ["--labels", "0-9", "--per-label", 2, "--n-ar", 2, "--chunk", 10]
    with mounted("-t", "tmpfs", "-o", "size=380k", "tmpfs", disk):  # features of one piece have room, 204 KB, those of two have none
        message = refuse(*run)
        assert f"{disk}/run/samples/000001.safetensors cannot be written: " in message and "No space left on device" in message
        (first,) = (disk / "run" / "samples").iterdir()
        written = first.stat().st_mtime_ns
        assert not list((disk / "run").rglob("*.tmp")) and not (disk / "run" / "figures.json").exists()
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        succeed(*run, "--resume")
        assert first.stat().st_mtime_ns == written
        figures = json.loads((disk / "run" / "figures.json").read_text(encoding="utf-8"))
        images, labels = FolderImages(disk / "run" / "images"), torch.arange(10).repeat_interleave(2)
        assert figures["reward/pickscore"] == pytest.approx(scored(to_tensor(images.pixels(0, 20)), labels)["reward/pickscore"], rel=1e-4)
        assert len(open_images(disk / "samples.npz")) == 20


def test_images_in_the_form_of_adm_come_back_in_a_random_order(place, tmp_path):
    images, labels = open_images(place / "real"), np.arange(REAL)
    write_shuffled_npz(tmp_path / "images.npz", images, labels)
    with np.load(tmp_path / "images.npz", allow_pickle=False) as content:
        assert sorted(content["arr_1"]) == labels.tolist() and content["arr_1"].tolist() != labels.tolist()
        assert (content["arr_0"] == images.pixels(0, REAL)[content["arr_1"]]).all()
    assert len(open_images(tmp_path / "images.npz")) == REAL and open_images(tmp_path / "images.npz").size == (28, 28)


def test_what_cannot_be_compared_is_refused_before_ray_starts(place, tmp_path):
    run = [FID, *options(place), "--labels", "0-9", "--out", tmp_path / "run"]
    assert "there is neither an .npz nor a folder" in refuse(*run, "--images", tmp_path / "nothing")
    np.savez(tmp_path / "large.npz", np.zeros((3, 32, 32, 3), np.uint8))
    assert "the images are (32, 32) pixels, those of" in refuse(*run, "--images", tmp_path / "large.npz")
    np.savez(tmp_path / "one.npz", np.zeros((1, 28, 28, 3), np.uint8))
    assert "two images at least, not 1" in refuse(*run, "--images", tmp_path / "one.npz")
    assert "there is no checkpoint at" in refuse(*run, "--inception", tmp_path / "none.pth")
    assert "--images are there already" in refuse(*run, "--images", tmp_path / "one.npz", "--keep", tmp_path / "kept")
    (tmp_path / "empty").mkdir()
    assert "has no files that end in .png" in refuse(*run, "--images", tmp_path / "empty")
    for name in ("0.png", "1.png"):
        (tmp_path / "empty" / name).write_bytes(b"no picture")
    assert "0.png" in refuse(*run, "--images", tmp_path / "empty")
    np.savez(tmp_path / "four.npz", np.zeros((3, 28, 28, 4), np.uint8))
    assert "uint8 (N, H, W, C) with C 1 or 3 fits" in refuse(*run, "--images", tmp_path / "four.npz")
    assert not (tmp_path / "run" / "settings.json").exists()


def test_rewards_that_cannot_score_are_refused_before_ray_starts(place, tmp_path):
    run = [FID, *options(place), "--labels", "0-9", "--out", tmp_path / "run"]
    assert "`python jobs/fetch.py clip` gives clip:models/clip" in refuse(*run, "--rewards", "clip:openai/clip")
    assert "is not [WEIGHT*]KIND:PLACE" in refuse(*run, "--rewards", "aesthetic:models/x")
    assert "are of one kind: their figures would have one name" in refuse(*run, *REWARDS, REWARDS[1])
    (tmp_path / "two.txt").write_text("a bag\na coat\n", encoding="utf-8")
    assert "two.txt has 2 prompts, the model has 10 classes" in refuse(*run, *REWARDS, "--prompts", tmp_path / "two.txt")
    stored = [*run, *REWARDS, "--images", place / "real"]
    assert "--rewards need to know what --images show: give --prompts" in refuse(*stored)
    assert "does not say which classes its images show" in refuse(*stored, "--prompts", tmp_path / "two.txt")
    write_shuffled_npz(tmp_path / "images.npz", open_images(place / "real"), np.arange(REAL))
    said = refuse(*stored, "--images", tmp_path / "images.npz", "--prompts", tmp_path / "two.txt")
    assert "two.txt has 2 prompts, but there are images of class" in said
    assert not (tmp_path / "run" / "settings.json").exists()
