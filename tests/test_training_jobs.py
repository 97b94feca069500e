"""The commands that made the embedded models, for a few updates each."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from commands import refuse, run, succeed

from marval_ray.embedded import assets_index
from marval_ray.embedded.fashion_mnist import CLASS_NAMES
from marval_ray.families.mar.autoencoder import load_vae
from marval_ray.files.tensors import read_state
from marval_ray.hub.layout import load_model
from marval_ray.presets import MODELS
from marval_ray.prompts import class_prompts
from marval_ray.rewards import load_reward


@pytest.fixture
def images(tmp_path) -> Path:
    pq.write_table(pq.read_table(assets_index.IMAGES).slice(0, 100), tmp_path / "images.parquet")
    return tmp_path / "images.parquet"


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_teacher_goes_on_to_the_same_numbers(tmp_path):
    job = ("jobs/embedded/train_teacher.py", "--latents", assets_index.LATENTS, "--batch", 2, "--warmup", 1)
    succeed(*job, "--steps", 4, "--out", tmp_path / "whole")
    succeed(*job, "--steps", 4, "--out", tmp_path / "parts", "--stop-after", 2)
    succeed(*job, "--steps", 4, "--out", tmp_path / "parts", "--resume")
    whole, parts = (read_state(tmp_path / name / "teacher.safetensors") for name in ("whole", "parts"))
    assert same(whole, parts)
    succeed(*job, "--steps", 4, "--bf16", "--out", tmp_path / "rounded")
    rounded = read_state(tmp_path / "rounded" / "teacher.safetensors")
    assert not same(whole, rounded) and all((whole[name] - rounded[name]).abs().max() < 1e-2 for name in whole)
    assert load_model(tmp_path / "whole" / "teacher.safetensors").config == MODELS["tiny"]
    assert "no state to resume" in refuse(*job, "--out", tmp_path / "absent", "--resume")


def test_a_teacher_may_start_from_another(tmp_path):
    job = ("jobs/embedded/train_teacher.py", "--latents", assets_index.LATENTS, "--batch", 2, "--steps", 1, "--lr", 0)
    succeed(*job, "--init", assets_index.TEACHER, "--out", tmp_path)
    expected = load_model(assets_index.TEACHER).state_dict()
    assert same(load_model(tmp_path / "teacher.safetensors").state_dict(), expected)


def test_the_decoder_is_trained_alone(images, tmp_path):
    job = ("jobs/embedded/train_vae.py", "--images", images, "--batch", 4, "--steps", 2)
    succeed(*job, "--out", tmp_path / "vae")
    succeed("jobs/embedded/train_classifier.py", "--train", images, "--test", images, "--batch", 50, "--epochs", 1,
         "--out", tmp_path / "perceptual.safetensors")  # fmt: skip
    succeed(*job, "--decoder-of", tmp_path / "vae", "--perceptual", tmp_path / "perceptual.safetensors",
         "--latent-noise", 0.3, "--out", tmp_path / "sharp")  # fmt: skip
    first, second = (load_vae(tmp_path / name).autoencoder for name in ("vae", "sharp"))
    assert same(first.encoder.state_dict(), second.encoder.state_dict())
    assert not same(first.decoder.state_dict(), second.decoder.state_dict())
    assert first.config.latents_mean == second.config.latents_mean and len(first.config.latents_std) == 4
    assert "--latent-noise is in units of known deviations" in refuse(*job, "--latent-noise", 0.3)


def test_the_reward_is_written_in_the_form_that_pickscore_has(images, tmp_path):
    succeed("jobs/embedded/train_reward.py", "--train", images, "--test", images, "--samples", 200, "--loops", 1, "--batch", 8,
         "--contrastive-steps", 2, "--preference-steps", 9, "--out", tmp_path / "reward")  # fmt: skip
    reward = load_reward([f"pickscore:{tmp_path / 'reward'}"])
    score = reward(torch.zeros(2, 1, 28, 28), class_prompts(CLASS_NAMES)[:2])
    assert score.shape == (2,) and score.isfinite().all() and reward.differentiable
    figures = json.loads((tmp_path / "reward" / "figures.json").read_text(encoding="utf-8"))
    assert {"noise", "texture", "other class", "one step", "student"} <= figures["pair_accuracy"].keys()


def test_teacher_figures_and_their_speed_alone(tmp_path):
    job = ("jobs/teacher_figures.py", "--out", tmp_path / "figures.json", "--sampler.steps", 3, "--batch", 10)
    succeed(*job, "--cfg", 1.0, 2.0, "--choice-samples", 20, "--choice-steps", 2, "--choice-loops", 1, "--samples", 20,
         "--few", 10, "--sizes", 10, "--loops", 2, "--few-loops", 1)  # fmt: skip
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert [(row["n_ar"], row["samples"], row["sets"]) for row in figures["rows"]] == [(2, 20, 1), (2, 10, 2), (1, 10, 1)]
    assert figures["rows"][1]["fd_b_se"] > 0
    assert len(figures["choice"]) == 3 and figures["sampler"]["steps"] == 3
    succeed(*job, "--retime")
    again = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    kept = [{k: v for k, v in row.items() if k != "images_per_second"} for row in again["rows"]]
    assert kept == [{k: v for k, v in row.items() if k != "images_per_second"} for row in figures["rows"]]
    assert again["rows"][0]["images_per_second"] != figures["rows"][0]["images_per_second"]


def test_speed_of_sampling(tmp_path):
    succeed("bench/sampling.py", "--preset", "tiny", "--batch", 2, "--loops", 4, "--measured", 1, "--repeats", 1,
         "--steps", 3, "--json", tmp_path / "speed.json")  # fmt: skip
    results = json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))
    assert results.keys() == {"student", "teacher"} and all(0 < r["share"] < 1.5 for r in results.values())
    assert results["teacher"]["flops"] > results["student"]["flops"]
    assert "unknown preset 'mar-x'" in refuse("bench/sampling.py", "--preset", "mar-x")


def test_speed_of_updates():
    """In a process of its own: this one may have a process group."""
    told = run("bench/updates.py", "--preset", "tiny", "--batch", 2, "--loops", 4, "--last", 2, "--repeats", 1).stdout
    assert "| gsim |" in told and "| replay |" in told
