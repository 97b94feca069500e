"""Teachers of one's own: the learner, and the whole way from a folder of pictures to a student's folder."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from commands import refuse, succeed
from PIL import Image
from safetensors.torch import load_file
from short import DISTILL
from small import MODEL, largest_gap, write_random_latents

from actors.learning.learner import AVERAGE
from actors.learning.teacher import TeacherRun
from actors.learning.trainer import train
from marval_ray.config import LearnerConfig
from marval_ray.families.mar.data import MaskedLatents
from marval_ray.files.storage import Storage
from marval_ray.hub.exported import Index
from marval_ray.hub.layout import load_model
from marval_ray.pipeline import MarvalPipeline
from marval_ray.runs.stage import TEACHER, read_metrics

TRAIN = "jobs/train_teacher.py"


def test_a_teacher_learns_and_a_resumed_run_is_the_whole(tmp_path):
    data = write_random_latents(tmp_path / "latents.parquet")
    learner = LearnerConfig(steps=24, batch=8, lr=1e-2, ema=0.5, log_every=1, checkpoint_every=8)
    run = TeacherRun(MODEL, data, learner, repeats=2)

    def trained(name: str, seconds: float | None = None) -> dict[str, torch.Tensor]:
        (tmp_path / name).mkdir(exist_ok=True)
        last = train(replace(run, learner=replace(learner, seconds=seconds)), Storage.of(str(tmp_path / name)), TEACHER)
        return load_file(last / AVERAGE)

    with ray.init(num_cpus=2, object_store_memory=300 * 10**6):
        whole = trained("whole")
        trained("parts", seconds=0.0)
        assert largest_gap(whole, trained("parts")) == 0
    rows = read_metrics(tmp_path / "whole" / TEACHER.metrics)
    assert [row["step"] for row in rows] == list(range(1, 25))
    first, last = (np.mean([row["mse"] + row["vb"] for row in part]) for part in (rows[:6], rows[-6:]))
    assert last < 0.8 * first


def test_labels_are_dropped_at_the_rate_that_is_asked_for(tmp_path):
    contexts = MaskedLatents(write_random_latents(tmp_path / "latents.parquet"), MODEL, 0, 1)

    def labels(drop: float) -> torch.Tensor:
        batches = [contexts.batch(0, step, 20, torch.Generator().manual_seed(step), drop).labels for step in range(50)]
        return torch.cat(batches)

    kept, some = labels(0.0), labels(0.3)
    assert kept.max() < MODEL.num_classes
    dropped = some == MODEL.num_classes
    assert 0.25 < dropped.float().mean() < 0.35 and torch.equal(kept[~dropped], some[~dropped])
    context = contexts.batch(0, 0, 4, torch.Generator().manual_seed(0))
    assert torch.equal(context.hidden_values(), context.tokens.gather(1, context.hidden[..., None].expand(-1, -1, 4)))


@pytest.mark.slow
def test_from_a_folder_of_pictures_to_a_model_that_draws(tmp_path):
    """Pictures of several sizes and modes in three classes; each stage by its command, at a tenth of the embedded width."""
    random = np.random.default_rng(0)
    for number, name in enumerate(("round", "square", "wide")):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for index in range(8):
            size, mode = ((28, 28), (20, 24), (32, 30))[index % 3], ("L", "RGB", "RGBA", "P")[index % 4]
            image = Image.fromarray(random.integers(0, 80, (*size, 4), dtype=np.uint8))
            image.paste((200, 200 - 60 * number, 255, 255), (4, 4 + 4 * number, 16, 18))
            content = io.BytesIO()
            image.convert(mode).save(content, "PNG")
            (tmp_path / "pictures" / name / f"{index}.png").write_bytes(content.getvalue())
    latents, teacher = tmp_path / "latents.parquet", tmp_path / "teacher"
    succeed("jobs/encode.py", "--images", tmp_path / "pictures", "--out", latents, "--batch", 8)
    sizes = {"encoder-width": 16, "decoder-width": 16, "head-width": 16, "encoder-heads": 2, "decoder-heads": 2}
    small = [part for name, size in sizes.items() for part in (f"--model.{name}", size)]
    learner = ("--learner.cpus-per-worker", 1, "--learner.batch", 4, "--learner.log-every", 1)
    job = (TRAIN, "--latents", latents, "--classes", 3, *small, *learner, "--sampler.steps", 3, "--loops", 2, "--out", teacher)
    assert "teacher/teacher.safetensors" in succeed(*job, "--learner.steps", 6, "--learner.warmup", 2)
    assert load_model(teacher / "teacher.safetensors").config.num_classes == 3
    written = {path.name for path in teacher.iterdir()}
    assert {"samples.png", "losses.png", "metrics-teacher.jsonl", "run.json", "config.json", "codec"} <= written
    assert "holds a" in refuse(*job, "--learner.steps", 6)
    shown = " ".join(succeed("jobs/status.py", teacher).split())  # a long path breaks its line
    assert "finished, see teacher.safetensors" in shown and "teacher: update 6 of 6" in shown and "checkpoint_" in shown
    succeed(*job, "--learner.steps", 7, "--learner.warmup", 2, "--resume")
    assert read_metrics(teacher / "metrics-teacher.jsonl")[-1]["step"] == 7

    judges = ("classifier", "reference", "classifier-b", "reference-b", "teacher")
    none = [part for name in judges for part in (f"--figures.{name}", "None")]
    pictures = ("--figures.per-class", 1, "--figures.grid-classes", 3, "--figures.loops", 2, "--figures.sampler.steps", 2)
    names = ("--figures.class-names", "round", "square", "wide")
    run = tmp_path / "run"
    succeed(
        DISTILL, "--teacher", teacher / "teacher.safetensors", "--latents", latents, "--model.num-classes", 3, *small, *learner, *none,
        *pictures, *names, "--stages", "gsim", "--learner.steps", 2, "--out", run,
    )  # fmt: skip
    pipeline = MarvalPipeline.from_pretrained(run)
    assert pipeline.index == Index(loops=2, licence=None, class_names=("round", "square", "wide"))
    assert [image.size for image in pipeline(["square", 0]).images] == [(28, 28)] * 2
    said = refuse("jobs/export.py", run, "--to", "hub:somebody/mine")
    assert f"inherits the licence of its teacher, here {teacher / 'teacher.safetensors'}: give it with --licence" in said
    assert "has no teacher.safetensors now" in refuse("jobs/sample.py", "--teacher", "--checkpoint", run)
    succeed("jobs/sample.py", "--teacher", "--checkpoint", teacher, "--labels", "0-2", "--sampler.steps", 2, "--out", tmp_path / "x.png")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--classes", 3], "labels are outside the model's classes 0-2"),
        (["--preset", "mar-b", "--loops", 300], "--loops must be in 1..256"),
        (["--preset", "tiny-paper"], "--preset 'tiny-paper' is unknown; choose one of tiny, mar-b"),
        (["--drop", 1], "--drop must be in [0, 1), got 1"),
        (["--init", "nowhere.safetensors"], "nowhere.safetensors (`python jobs/fetch.py --list`"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_said_before_ray_starts(options, said, tmp_path):
    files = ("--latents", tmp_path, "--vae", tmp_path) if "mar-b" in options else ()
    assert said in refuse(TRAIN, *options, *files, "--out", tmp_path / "out")


def test_one_run_and_files_of_other_sizes(tmp_path: Path):
    assert "does not fit the model" in refuse(TRAIN, "--classes", 11, "--init", "marval_ray/embedded/assets/teacher/teacher.safetensors",
                                              "--out", tmp_path / "out")  # fmt: skip
