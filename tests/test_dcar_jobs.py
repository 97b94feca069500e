"""DC-AR through the commands, from files in the published formats at small width: pictures with prompts to a student that draws."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from commands import ROOT, refuse, succeed
from PIL import Image
from short import DISTILL

from actors.serving.sampler import Served
from jobs import distill
from marval_ray.embedded import assets_index
from marval_ray.families.base import Wish
from marval_ray.families.dcar.presets import LOOPS
from marval_ray.files.atomic import write_json
from marval_ray.files.images import encode_png, read_npz
from marval_ray.files.tensors import read_state
from marval_ray.hub.exported import Index
from marval_ray.hub.layout import described
from marval_ray.pipeline import MarvalPipeline
from marval_ray.prompt_sets import read_set
from marval_ray.types import Prompts

ENCODE, SAMPLE, EXPORT = "jobs/encode.py", "jobs/sample.py", "jobs/export.py"
HERE = {"PYTHONPATH": str(ROOT / "tests")}
PROMPTS = ("a cat on the mat", "the dog")
CPU = (
    "--learner.workers", 1, "--learner.gpus-per-worker", 0, "--learner.cpus-per-worker", 1, "--learner.zero-stage", 0, "--learner.batch", 2,
    "--learner.steps", 2, "--learner.log-every", 1, "--figures.sampler.steps", 2, "--figures.grid-classes", 2, "--figures.per-class", 1,
    "--figures.loops", 3,
)  # fmt: skip


def options(parts) -> list[object]:
    """What names the recorded model and its files."""
    sizes = [text for name, value in asdict(parts[0]).items() for text in (f"--model.{name.replace('_', '-')}", value)]
    return ["--preset", "dc-ar-512", *sizes, *(text for option in parts[1].items() for text in option)]


def write_pictures(path: Path) -> Path:
    pixels = [np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8) for number in range(4)]
    pq.write_table(pa.table({"image": list(map(encode_png, pixels)), "caption": [*PROMPTS, *PROMPTS]}), path)
    return path


@pytest.mark.slow
def test_the_whole_way(parts, tmp_path):
    data, run, files = tmp_path / "codes.parquet", tmp_path / "run", parts[1]
    pictures = write_pictures(tmp_path / "pictures.parquet")
    said = succeed(ENCODE, "--images", pictures, "--vae", files["--vae"], "--size", 256, "--out", data, "--flip")
    assert "8 latents of 4 images; left out: nothing; 2 prompts" in said
    table = pq.read_table(data)
    assert table["prompt"].to_pylist() == [text for text in (*PROMPTS, *PROMPTS) for _ in range(2)]

    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS), encoding="utf-8")
    prompts = ("--prompts", tmp_path / "prompts.txt")
    succeed(DISTILL, *options(parts), "--latents", data, *CPU, *prompts, "--out", run)
    assert {"codec", "text_encoder", "student.safetensors", "report.html", "teacher.png"} <= {path.name for path in run.iterdir()}
    assert 'pipeline(prompts=["a red apple"], num_loops=3)' in (run / "README.md").read_text(encoding="utf-8")

    moved = run.rename(tmp_path / "moved")
    succeed(SAMPLE, "--checkpoint", moved, *prompts, "--per-label", 2, "--seed", 5, "--out", tmp_path / "student.npz")
    pixels, numbers = read_npz(tmp_path / "student.npz")
    assert numbers.tolist() == [0, 0, 1, 1] and pixels.shape == (4, 256, 256, 3) and len(np.unique(pixels[..., 0], axis=0)) == 4
    succeed(EXPORT, moved, "--to", tmp_path / "exported", "--licence", "other")
    for folder in (moved, tmp_path / "exported"):
        pipeline = MarvalPipeline.from_pretrained(folder)
        images = pipeline(prompts=[text for text in PROMPTS for _ in range(2)], generator=5).images
        assert np.array_equal(np.stack(images), pixels) and pipeline.index == Index(3, None if folder == moved else "other")
    served = Served(pipeline.generation.model, pipeline.generation.codec, "exported", pipeline.generation.texts)
    drawing = served.begin(Wish(Prompts(PROMPTS[:1]), seed=5, loops=3))
    while not drawing.finished:
        served.advance([drawing])
    alone = served.pixels([drawing])[0].astype(int)
    assert abs(alone - pixels[0]).max() <= 1  # a batch of another size rounds otherwise
    with pytest.raises(ValueError, match="the model reads texts: give prompts, one for each image, and no class_labels"):
        pipeline(class_labels=[0])

    write_json(files["--teacher"].parent / "config.json", described(parts[0]))
    named = (text for option in ("--vae", "--texts") for text in (option, files[option]))
    succeed(
        SAMPLE, "--teacher", "--checkpoint", files["--teacher"], *named, "--sampler.steps", 2, "--prompt", "a dog", "the cat " * 9,
        "--per-label", 2, "--out", tmp_path / "grid.png",
    )  # fmt: skip
    assert Image.open(tmp_path / "grid.png").width > 2 * 256
    assert "reads texts: give --prompt TEXT or --prompts FILE" in refuse(SAMPLE, "--checkpoint", moved, "--out", tmp_path / "x.png")


RL_OF_CODES = (
    "--stages", "rl", "--rl.estimator", "pathwise+codes", "--rl.no-freeze-backbone", "--rl.group", 4, "--rl.loops", 3, "--rl.chunk", 4,
    "--rl.drift-weight", 0.1, "--rl.rewards", "plugin:small_reward:Brightness", "--rl.max-staleness", 0,
    "--rl.rollout.count", 1, "--rl.rollout.cpus", 0.5, "--rl.rollout.gpus", 0, "--rl.reward.count", 1, "--rl.reward.cpus", 0.5,
    "--rl.reward.gpus", 0, "--rl-learner.workers", 1, "--rl-learner.gpus-per-worker", 0, "--rl-learner.cpus-per-worker", 1,
    "--rl-learner.zero-stage", 0, "--rl-learner.batch", 8, "--rl-learner.lr", 1e-3, "--rl-learner.log-every", 1,
    "--rl-learner.checkpoint-every", 2,
)  # fmt: skip


@pytest.mark.slow
def test_codes_and_residuals_learn_together_and_a_resumed_run_is_the_same(parts, tmp_path):
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS), encoding="utf-8")
    data, pictures = tmp_path / "codes.parquet", write_pictures(tmp_path / "pictures.parquet")
    succeed(ENCODE, "--images", pictures, "--vae", parts[1]["--vae"], "--size", 256, "--out", data)
    named = ("--student", parts[1]["--teacher"], "--latents", data, "--prompts", tmp_path / "prompts.txt")
    start = (DISTILL, *options(parts), *named, *CPU, *RL_OF_CODES)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    succeed(*start, "--rl-learner.steps", 4, "--out", whole, env=HERE)
    succeed(*start, "--rl-learner.steps", 2, "--out", resumed, env=HERE)
    succeed(*start, "--rl-learner.steps", 4, "--out", resumed, "--resume", env=HERE)
    students = (folder / "student.safetensors" for folder in (whole, resumed))
    weights, again, before = (read_state(path) for path in (*students, parts[1]["--teacher"]))
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    moved = {name for name in weights if not torch.equal(weights[name], before[name])}
    assert {"final_layer.linear.weight", "diffloss.net.final_layer.linear.weight"} <= moved


def test_a_plan_takes_the_sizes_of_the_files_that_are_named(parts, tmp_path):
    out = succeed(DISTILL, *options(parts), "--latents", tmp_path, "--plan", 24)
    assert "| GSIM learner | 8 x 1 GPU | 64 | 0.0" in out  # a T5 of the published size alone would be 0.44 GB


def test_mistakes_are_one_line(parts, tmp_path):
    command = (DISTILL, *options(parts), "--latents", tmp_path, "--out", tmp_path / "run")
    assert "no Parquet file at" in refuse(*command)
    (tmp_path / "style.json").write_text('["a cat", ""]', encoding="utf-8")
    assert "style.json, entry 2: '' is no prompt" in refuse(*command, "--prompts", tmp_path / "style.json")
    assert "--model.buffer-size" in refuse(*command, "--model.buffer-size", 3)
    assert "config.json is missing: `python jobs/fetch.py t5-base`" in refuse(*command, "--texts", tmp_path)
    assert f"--texts {tmp_path}: this model reads classes" in refuse(DISTILL, "--texts", tmp_path)
    assert not (tmp_path / "run").exists()
    wrong = refuse(ENCODE, "--images", assets_index.IMAGES, "--vae", parts[1]["--vae"], "--size", 256, "--out", tmp_path / "x.parquet")
    assert "lacks the column(s) ['prompt']; images need ['image', 'prompt']" in wrong
    pictures = write_pictures(tmp_path / "pictures.parquet")
    arrow = refuse(ENCODE, "--images", pictures, "--vae", parts[1]["--vae"], "--out", tmp_path / "x.arrow")
    assert "codes and residuals are written as Parquet" in arrow
    assert "give --labels in the place of prompts" in refuse(SAMPLE, "--prompt", "a cat", "--out", tmp_path / "x.png")


def test_the_preset_draws_as_its_authors_did_and_its_pictures_show_the_paper_s_prompts():
    config = distill.defaults("dc-ar-512", Path("unnamed"))
    assert config.stages == "gsim" and config.gsim.freeze_backbone and config.gsim.w == config.figures.sampler.cfg == 5.5
    assert config.figures.loops == (LOOPS,) and (config.figures.sampler.steps, config.figures.sampler.clip_x0) == (32, 1.0)
    prompts = read_set(distill.PICTURED).prompts
    assert len(prompts) == 16 and prompts.texts[1] == "The face of god, light, holy."
