"""What people brought, through the real jobs: each is read as they mean it, or refused in one line before Ray starts.

Tables of `datasets` are in test_encode.py, faults that only a run shows in test_mistakes.py, those of clients in test_api_http.py.
"""

import io
import os
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from commands import refuse, succeed
from PIL import Image
from safetensors.torch import load_file, save_file
from small import write_latents_from_1

from marval_ray.embedded import assets_index

pytestmark = pytest.mark.slow

RAMP = Image.fromarray(np.tile(np.linspace(0, 255, 28), (28, 1)).astype(np.uint8))  # dark left, bright right
ORIENTATION = 0x0112
STUDENT = load_file(assets_index.STUDENT)
RUN = ("jobs/distill.py", "--stages", "gsim", "--out")
BOTH = ("jobs/distill.py", "--stages", "gsim,rl", "--out")


def put(path: Path, image: Image.Image = RAMP, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def png(image: Image.Image = RAMP) -> bytes:
    with io.BytesIO() as file:
        image.save(file, "PNG")
        return file.getvalue()


def turned(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = number
    return exif


def people_s_folder(root: Path) -> Path:
    """Two classes, with what cameras, editors and systems leave."""
    put(root / "cat" / "0.png")
    put(root / "cat" / "1.jpg", RAMP.rotate(180), exif=turned(3), quality=95)
    (root / "cat" / "._0.png").write_bytes(b"\0\5\26\7" + bytes(90))
    for suffix in ("tif", "gif", "jfif", "avif", "ppm"):
        put(root / "dog" / f"0.{suffix}", **({"format": "JPEG"} if suffix == "jfif" else {}))
    put(root / "dog" / "puppies" / "deep" / "0.png")
    Path(os.fsdecode(bytes(root / "dog") + b"/\xe9.png")).write_bytes(png())
    for name in (".ipynb_checkpoints", "__MACOSX"):
        put(root / name / "0.png")
    return root


def test_a_folder_of_images(tmp_path):
    printed = succeed("jobs/encode.py", "--images", people_s_folder(tmp_path / "img"), "--out", tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["label"].to_pylist() == [0] * 2 + [1] * 7
    means = np.array(table["mean"].to_pylist())
    away = np.sqrt(((means - means[0]) ** 2).mean(1))
    assert (away < 0.3).all()  # 1.8 when one is upside down
    assert "9 latents of 9 images; left out: 3 hidden or of the system; classes: 0 cat (2), 1 dog (7)" in printed


def sample(tmp_path: Path, *options: object) -> np.ndarray:
    succeed("jobs/sample.py", "--per-label", 1, "--n-ar", 2, "--labels", "0-2", "--out", tmp_path / "out.npz", *options)
    with np.load(tmp_path / "out.npz", allow_pickle=False) as content:
        return content["arr_0"]


@pytest.mark.parametrize(
    "content",
    [
        {"model": STUDENT, "model_ema": None},
        {"model": {f"module.{name}": value for name, value in STUDENT.items()}},
        {"model": {f"_orig_mod.{name}": value for name, value in STUDENT.items()}},
    ],
    ids=["no average", "distributed", "compiled"],
)
def test_checkpoints_of_other_trainers(tmp_path, content):
    torch.save(content, tmp_path / "x.pth")
    read = sample(tmp_path, "--preset", "tiny", "--vae", assets_index.VAE, "--checkpoint", tmp_path / "x.pth")
    assert np.array_equal(read, sample(tmp_path))


def test_an_autoencoder_with_old_names(tmp_path):
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    state = load_file(assets_index.VAE / "diffusion_pytorch_model.safetensors")
    for new, name in old.items():
        state = {key.replace(new, name): value for key, value in state.items()}
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "config.json").write_bytes((assets_index.VAE / "config.json").read_bytes())
    save_file(state, folder / "diffusion_pytorch_model.safetensors")
    assert np.array_equal(sample(tmp_path, "--vae", folder), sample(tmp_path))


def labels_from_1(folder: Path) -> tuple[object, ...]:
    return (*RUN, folder / "run", "--latents", write_latents_from_1(folder / "from1.parquet"))


def reward_without_a_tower(folder: Path) -> tuple[object, ...]:
    (folder / "clip").mkdir()
    for path in (assets_index.ASSETS / "reward").iterdir():
        (folder / "clip" / path.name).write_bytes(path.read_bytes())
    state = {name: value for name, value in load_file(folder / "clip" / "model.safetensors").items() if "vision_model.encoder" not in name}
    save_file(state, folder / "clip" / "model.safetensors", metadata={"format": "pt"})
    return (*BOTH, folder / "run", "--rl.rewards", f"pickscore:{folder / 'clip'}")


def empty_reward(folder: Path) -> tuple[object, ...]:
    (folder / "empty").mkdir()
    return (*BOTH, folder / "run", "--rl.rewards", f"pickscore:{folder / 'empty'}")


def web_page(folder: Path) -> tuple[object, ...]:
    (folder / "page.pth").write_text("<!DOCTYPE html><html><body>Sign in</body></html>", encoding="utf-8")
    options = ("--preset", "tiny", "--vae", assets_index.VAE, "--checkpoint", folder / "page.pth")
    return ("jobs/sample.py", "--out", folder / "out.png", *options)


def one_array(folder: Path) -> tuple[object, ...]:
    np.save(folder / "x.npy", np.zeros((2, 28, 28, 1), np.uint8))
    return ("jobs/evaluate.py", "--npz", folder / "x.npy")


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (labels_from_1, "labels are outside the model's classes 0-9, the first is 10"),
        (reward_without_a_tower, "missing vision_model.encoder"),
        (empty_reward, "config.json is missing"),
        (web_page, "<!DOCTYPE html>"),
        (one_array, "is not an .npz"),
        (lambda folder: (*RUN, folder / "run", "--seed", -1), "--seed must be in 0..2^63 - 1, got -1"),
    ],
)
def test_mistakes_are_told_before_work_begins(tmp_path, mistake, message):
    arguments = mistake(tmp_path)
    began = time.monotonic()
    assert message in refuse(*arguments)
    assert time.monotonic() - began < 60
    assert not (tmp_path / "run").exists() and not list(tmp_path.glob("out*"))


def test_outputs_of_a_submitted_job_outlast_it(tmp_path, monkeypatch):
    """Ray runs it in a copy of the working directory, which it deletes."""
    copy = tmp_path / "runtime_resources" / "copy"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    pq.write_table(pq.read_table(assets_index.IMAGES).slice(0, 4), "images.parquet")
    printed = succeed("jobs/encode.py", "--images", "images.parquet", "--out", "latents.parquet")
    assert str(tmp_path / "home" / "latents.parquet") in printed
    succeed("jobs/sample.py", "--per-label", 1, "--n-ar", 1, "--labels", 0, "--out", "pictures/grid.png")
    succeed("jobs/evaluate.py", "--per-label", 2, "--n-ar", 1, "--out", "scores.json")
    assert {path.name for path in (tmp_path / "home").rglob("*.*") if path.is_file()} >= {"latents.parquet", "grid.png", "scores.json"}
    assert [path.name for path in copy.iterdir()] == ["images.parquet"]
