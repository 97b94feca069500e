"""From files in the published formats, at small width, to a row of a table, an exported model and an endpoint, by the commands."""

import base64
import io
import json
from argparse import Namespace
from dataclasses import asdict, replace
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from commands import succeed
from PIL import Image
from reference import model_config_from_reference, read_recording
from servers import PATH, server
from short import DISTILL
from small import write_clip, write_inception

from marval_ray.embedded import assets_index
from marval_ray.evaluation.adm import POOLED, SPATIAL
from marval_ray.families.mar.config import ModelConfig
from marval_ray.families.mar.detok import DeTokConfig
from marval_ray.families.mar.model import MAR
from marval_ray.pipeline import MarvalPipeline

NAMES = ("an apple", "a boat")
CPU = (
    "--learner.workers", 1, "--learner.gpus-per-worker", 0, "--learner.cpus-per-worker", 1, "--learner.zero-stage", 0, "--learner.batch", 4,
    "--rl-learner.workers", 1, "--rl-learner.gpus-per-worker", 0, "--rl-learner.cpus-per-worker", 1, "--rl-learner.zero-stage", 0,
    "--rl.rollout.count", 1, "--rl.rollout.gpus", 0, "--rl.rollout.cpus", 0.5, "--rl.reward.count", 1, "--rl.reward.gpus", 0,
    "--rl.reward.cpus", 0.5, "--rl.loops", 2, "--rl.last", 2, "--rl.max-staleness", 0, "--rl-learner.batch", 4,
)  # fmt: skip


def kl(folder: Path) -> tuple[Path, ModelConfig]:
    """MAR's checkpoint-last.pth for latents of an autoencoder in diffusers' format."""
    model = ModelConfig(
        latent_size=8, latent_channels=4, num_classes=2, buffer_size=4, encoder_width=32, encoder_depth=1, encoder_heads=2,
        decoder_width=32, decoder_depth=1, decoder_heads=2, head_width=32, head_depth=1, image_size=28,
    )  # fmt: skip
    torch.manual_seed(0)
    state = {name: value + 0.02 * torch.randn_like(value) for name, value in MAR(model).state_dict().items()}
    torch.save({"model": {}, "model_ema": state, "epoch": 399, "args": Namespace(model="mar_base")}, folder / "checkpoint-last.pth")
    return assets_index.VAE, model


def detok(folder: Path) -> tuple[Path, ModelConfig]:
    """DeTok's MAR, tokenizer and statistics, as its authors publish them."""
    recording = read_recording(Path(__file__).parent / "fixtures/detok_tiny.safetensors")
    torch.save({"model_ema": recording.group("tokenizer")}, folder / "detok.pth")
    torch.save({"model_ema": recording.group("state")}, folder / "checkpoint-last.pth")
    (folder / "stats.pkl").write_bytes(recording["stats/pickle_cuda"].numpy().tobytes())
    sizes = options("sizes", DeTokConfig(**recording.config["tokenizer_sizes"]))
    files = ("--weights", folder / "detok.pth", "--stats", folder / "stats.pkl")
    succeed("jobs/detok_codec.py", *files, "--out", folder / "codec", *sizes)
    return folder / "codec", replace(model_config_from_reference(recording.config), image_size=32)


def options(prefix: str, config: object) -> list[object]:
    return [text for name, value in asdict(config).items() for text in (f"--{prefix}.{name.replace('_', '-')}", value)]


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "files"), [("mar-b", kl), ("detok-b", detok)])
def test_the_whole_way(preset, files, tmp_path):
    vae, model = files(tmp_path)
    teacher, latents, run = tmp_path / "checkpoint-last.pth", tmp_path / "latents.parquet", tmp_path / "run"
    for number in range(8):
        path = tmp_path / "images" / NAMES[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (28, 28, 3), dtype=np.uint8)).save(path)
    succeed("jobs/encode.py", "--images", tmp_path / "images", "--vae", vae, "--out", latents, "--batch", 8)
    names = ("apple", "boat", *(f"thing {label}" for label in range(2, model.num_classes)))
    (tmp_path / "names.txt").write_text("\n".join(names))
    succeed(
        DISTILL, "--preset", preset, *options("model", model), "--teacher", teacher, "--vae", vae, "--latents", latents, *CPU,
        "--learner.steps", 2, "--rl-learner.steps", 2, "--rl.rewards", f"pickscore:{write_clip(tmp_path / 'clip', 32)}",
        "--rl.held-out-rewards", f"clip:{tmp_path / 'clip'}", "--prompts", tmp_path / "names.txt",
        "--figures.loops", 4, "--figures.sampler.steps", 2, "--figures.grid-classes", 2, "--figures.per-class", 1, "--out", run,
    )  # fmt: skip
    summary = json.loads((run / "summary.json").read_text())
    assert np.isfinite([summary[name] for name in ("reward_before", "reward_after", "held_out_clip_before", "held_out_clip_after")]).all()

    fid = tmp_path / "fid"
    moments = {"mu": np.zeros(POOLED), "sigma": np.eye(POOLED), "mu_s": np.zeros(SPATIAL), "sigma_s": np.eye(SPATIAL)}
    np.savez(tmp_path / "reference.npz", **moments)
    succeed(
        "jobs/fid.py", "--checkpoint", run, "--labels", "0-1", "--per-label", 2, "--n-ar", 4, "--out", fid,
        "--inception", write_inception(tmp_path / "inception.pth"), "--reference", tmp_path / "reference.npz",
    )  # fmt: skip
    figures = json.loads((fid / "figures.json").read_text())
    assert figures["fid"] > 0 and figures["sfid"] > 0 and figures["images"] == 4 and "precision" not in figures

    exported = tmp_path / "exported"
    succeed("jobs/export.py", run, "--to", exported, "--licence", "mit", "--class-names", tmp_path / "names.txt", "--loops", 4)
    (image,) = MarvalPipeline.from_pretrained(exported)("boat", generator=5).images
    with server(tmp_path / "server.log", "--checkpoint", exported) as running:
        answer = httpx.post(f"{running.address}{PATH}", json={"prompt": "a boat", "seed": 5}, timeout=120)
        assert answer.status_code == 200 and answer.json()["steps"] == 4, answer.text
        served = Image.open(io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"])))
    assert np.abs(np.asarray(image).astype(int) - np.asarray(served).astype(int)).max() <= 1
