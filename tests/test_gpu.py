"""What a GPU does like the CPU: numbers of the models, both stages, the endpoint. `make test-gpu` where there is one."""

import base64
import io
import json

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from commands import succeed
from PIL import Image
from servers import server
from short import DISTILL, QUICK, QUICK_RL
from small import wish

from marval_ray.diffusion.samplers import Ancestral
from marval_ray.draws import Draws
from marval_ray.embedded import assets_index
from marval_ray.families.generation import student_generation
from marval_ray.families.mar.batching import advance, begin
from marval_ray.families.mar.graphs import SWITCH, draw_loops
from marval_ray.families.mar.loop import Randomness, sample_loops, sample_tokens
from marval_ray.hub.layout import load_model
from marval_ray.types import Prompts

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="NO GPU: these tests need one")]

ROLES = (
    "--learner.gpus-per-worker", 0.4, "--rl-learner.gpus-per-worker", 0.4, "--rl.rollout.gpus", 0.2, "--rl.reward.gpus", 0.2,
    "--rl.judge.gpus", 0.2,
)  # fmt: skip
GREY = 2 / 255
"""A grey level of images in [-1, 1]."""


@pytest.mark.parametrize("kind", ["student", "teacher"])
def test_float32_draws_as_the_cpu_does(kind):
    model = load_model({"student": assets_index.STUDENT, "teacher": assets_index.TEACHER}[kind]).eval().requires_grad_(False)
    c = model.config
    sampler = c.one_step if kind == "student" else Ancestral(steps=5, cfg=3.0, clip_x0=1.0)
    random, labels = Randomness.of(Draws(0, tuple(range(20))), c.num_tokens, c.token_channels, sampler.noise_steps), torch.arange(20) % 10
    here = sample_tokens(model, sampler, labels, random, 8)
    there = sample_tokens(model.cuda(), sampler, labels.cuda(), random.to("cuda"), 8).cpu()
    assert (here - there).abs().median() < 1e-4
    assert (here - there).abs().max() < 5e-2  # what rounding becomes through loops and steps


def test_bfloat16_draws_nearly_the_same_images():
    model, prompts = load_model(assets_index.STUDENT).eval().requires_grad_(False).cuda(), Prompts.classes_in_turn(10, 100)
    codec = model.config.family.codec(assets_index.VAE, model.config).to("cuda")
    exact = student_generation(model, codec, loops=8).images(prompts, 0)
    with torch.autocast("cuda", torch.bfloat16):
        rounded = student_generation(model, codec, loops=8).images(prompts, 0)
    weights_too = student_generation(model.bfloat16(), codec, loops=8).images(prompts, 0)
    for images in (rounded, weights_too):
        assert (images - exact).abs().mean() < 4 * GREY


@torch.no_grad()
@pytest.mark.parametrize("kind", ["student", "teacher"])
def test_graphs_draw_what_eager_loops_draw(kind, monkeypatch):
    monkeypatch.setenv(SWITCH, "1")
    model = load_model({"student": assets_index.STUDENT, "teacher": assets_index.TEACHER}[kind]).eval().cuda()
    c = model.config
    sampler = c.one_step if kind == "student" else Ancestral(steps=5, cfg=3.0, clip_x0=1.0)
    for seed in range(4):  # the first batch of a size is drawn without graphs, the third by those of the second
        if seed == 3:
            for parameter in model.parameters():
                parameter.mul_(0.9)
        random = Randomness.of(Draws(seed, tuple(range(8))), c.num_tokens, c.token_channels, sampler.noise_steps).to("cuda")
        labels = (torch.arange(8, device="cuda") + seed) % 10
        drawn = list(draw_loops(model, sampler, labels, random, 8))
        eager = list(sample_loops(model, sampler, labels, random, 8))
        assert len(drawn) == len(eager) == 8
        assert max((one - other).abs().max() for one, other in zip(drawn, eager)) < 1e-4


@torch.inference_mode()
def test_batch_mates_change_no_grey_level():
    model = load_model(assets_index.STUDENT).eval().cuda()
    wishes = [wish(3, 1, 1, 8), wish(9, 5, 0, 1), wish(3, 7, 2, 16), wish(7, 2**40, 0, 64)]
    alone, together = ([begin(asked, model) for asked in wishes] for _ in range(2))
    for drawing in alone:
        while not drawing.finished:
            advance([drawing])
    while active := [drawing for drawing in together if not drawing.finished]:
        advance(active)
    for one, other in zip(alone, together, strict=True):
        assert (one.values - other.values).abs().max() < 1e-3


def test_both_stages_share_a_gpu(tmp_path):
    steps = ("--learner.steps", 4, "--rl-learner.steps", 4, "--figures.samples", 100)
    succeed(DISTILL, *QUICK, *QUICK_RL, *steps, "--rl.rewards", "pickscore:embedded/reward", *ROLES, "--out", tmp_path / "run")
    summary = json.loads((tmp_path / "run/summary.json").read_text(encoding="utf-8"))
    assert summary["rl_updates"] == 4 and np.isfinite(summary["student_fd"])
    rows = [json.loads(line) for line in (tmp_path / "run/metrics-rl.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(row["skipped"] == 0 and row["student/gradient_norm"] > 0 for row in rows)
    longer = ("--rl-learner.steps", 6, "--resume")
    succeed(DISTILL, *QUICK, *QUICK_RL, *steps, *longer, "--rl.rewards", "pickscore:embedded/reward", *ROLES, "--out", tmp_path / "run")
    assert json.loads((tmp_path / "run/summary.json").read_text(encoding="utf-8"))["rl_updates"] == 6


def test_latents_equal_the_shipped_ones(tmp_path):
    table = pq.read_table(assets_index.IMAGES).slice(0, 20)
    pq.write_table(table, tmp_path / "images.parquet")
    succeed("jobs/encode.py", "--images", tmp_path / "images.parquet", "--out", tmp_path / "latents.parquet", "--gpus-per-worker", 1)
    got, shipped = (
        np.stack(pq.read_table(path).slice(0, 20)["mean"].to_pylist()) for path in (tmp_path / "latents.parquet", assets_index.LATENTS)
    )
    assert np.abs(got - shipped).max() < 1e-2


def test_the_endpoint_draws_what_the_cpu_draws(tmp_path):
    ask = {"prompt": "a bag", "seed": 1, "steps": 4}

    def draw(*options: object) -> np.ndarray:
        with server(tmp_path / "log", *options) as running:
            answer = httpx.post(f"{running.address}/v1/images/generations", json=ask, timeout=60)
        assert answer.status_code == 200, answer.text
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"])))).astype(int)

    here = draw()
    assert np.abs(draw("--gpus", 1) - here).max() <= 1
    assert np.abs(draw("--gpus", 1, "--dtype", "bfloat16") - here).mean() < 4
