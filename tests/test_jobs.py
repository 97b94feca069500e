"""The jobs as commands: what they write, what they refuse."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from commands import ROOT, help_of, refuse, succeed
from PIL import Image
from short import DISTILL, OUTPUTS, SHORT
from small import MODEL, write_random_latents, write_teacher

from marval_ray.embedded import assets_index
from marval_ray.embedded.fashion_mnist import CLASS_NAMES
from marval_ray.files.images import read_images
from marval_ray.files.tensors import read_state
from marval_ray.hub.layout import load_model
from marval_ray.presets import PRESETS
from marval_ray.prompts import class_prompts
from marval_ray.runs.stage import read_metrics


def test_distillation_writes_what_people_look_at(run_folder):
    assert OUTPUTS <= {path.name for path in run_folder.iterdir()}
    rows = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    summary = json.loads((run_folder / "summary.json").read_text(encoding="utf-8"))
    assert {"student_fd", "student_fd_before", "student_accuracy", "student_n_ar"} <= summary.keys()
    assert {"student_fd_se", "student_fd_b", "student_fd_b_se"} <= summary.keys()
    assert summary["student_n_ar_before"] == summary["student_n_ar"] == 2  # they are compared
    assert summary["seconds_total"] > summary["seconds_gsim"] > 0
    assert [(row["model"], row["n_ar"]) for row in summary["loops"]] == [("student", 1), ("student", 2)]
    student, teacher = load_model(run_folder / "student.safetensors"), load_model(assets_index.TEACHER)
    assert student.config == teacher.config
    assert any((a != b).any() for a, b in zip(student.parameters(), teacher.parameters(), strict=True))


def test_a_run_goes_on_only_when_asked_to(run_folder, tmp_path):
    assert "holds a finished run: continue it with --resume, or start anew with --overwrite" in refuse(
        DISTILL, "--out", run_folder, "--learner.steps", 4, *SHORT
    )
    assert "--resume and --overwrite exclude each other" in refuse(DISTILL, "--resume", "--overwrite")
    assert "holds no run to resume" in refuse(DISTILL, "--out", tmp_path, "--resume")
    assert f"gsim.w was {PRESETS['tiny'].gsim.w}, is 3.0" in refuse(
        DISTILL, "--out", run_folder, "--resume", "--gsim.w", 3, "--learner.steps", 4, *SHORT
    )
    before = read_state(run_folder / "student.safetensors")
    resumed = tmp_path / "resumed"
    shutil.copytree(run_folder, resumed)
    succeed(DISTILL, "--out", resumed, "--resume", "--learner.steps", 5, *SHORT)
    assert recorded(resumed) == [1, 2, 3, 4, 5]
    after = read_state(resumed / "student.safetensors")
    assert any((before[name] != after[name]).any() for name in before)


@pytest.mark.slow
def test_signals_end_a_run_with_a_checkpoint_from_which_it_goes_on_and_a_run_at_work_is_left_alone(run_folder, tmp_path):
    out, options = tmp_path / "run", ("--resume", "--learner.steps", 500, *SHORT)
    shutil.copytree(run_folder, out)
    done = len(recorded(out))
    for number in (signal.SIGINT, signal.SIGTERM):
        job = at_work(tmp_path / "log", out, done + 1, *options)
        if number == signal.SIGINT:
            for way in ("--resume", "--overwrite"):
                assert f"belongs to process {job.pid} on" in refuse(DISTILL, "--out", out, way, *options[1:])
        stop(job, number, tmp_path / "log")
        assert done < len(recorded(out)) < 500
        done = len(recorded(out))
    succeed(DISTILL, "--out", out, "--resume", "--learner.steps", done + 2, *SHORT)
    assert recorded(out) == list(range(1, done + 3))


def at_work(log: Path, out: Path, rows: int, *options: object) -> subprocess.Popen:
    """A run in a process of its own, once it has recorded that many updates."""
    command = [sys.executable, DISTILL, "--out", out, *options]
    with log.open("w", encoding="utf-8") as file:
        job = subprocess.Popen(list(map(str, command)), cwd=ROOT, stdout=file, stderr=file)
    end = time.monotonic() + 200
    while not (out / "metrics.jsonl").exists() or len(recorded(out)) < rows:
        assert time.monotonic() < end and job.poll() is None, log.read_text(encoding="utf-8")[-3000:]
        time.sleep(0.1)
    return job


def stop(job: subprocess.Popen, number: signal.Signals, log: Path) -> None:
    """Send the signal: the run says how to go on, without a traceback."""
    job.send_signal(number)
    assert job.wait(120) == 128 + number, log.read_text(encoding="utf-8")[-3000:]
    printed = log.read_text(encoding="utf-8")
    assert f"stopped on {number.name} in stage gsim; --resume continues" in printed
    assert not any(line.startswith("Traceback") for line in printed.splitlines()), printed[-5000:]


def recorded(out: Path) -> list[float]:
    """Numbers of the updates in the metrics."""
    return [row["step"] for row in read_metrics(out / "metrics.jsonl")]


def test_samples_are_written_in_three_forms(run_folder, tmp_path):
    student = ("jobs/sample.py", "--checkpoint", run_folder / "student.safetensors", "--n-ar", 2, "--labels", "0,3-4")
    succeed(*student, "--per-label", 2, "--seed", 1, "--out", tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz", allow_pickle=False) as content:
        images, labels = content["arr_0"], content["arr_1"]
    assert images.shape == (6, 28, 28, 1) and images.dtype == np.uint8 and labels.tolist() == [0, 0, 3, 3, 4, 4]
    succeed(*student, "--per-label", 2, "--seed", 1, "--out", tmp_path / "pictures", "--batch", 5)
    files = sorted((tmp_path / "pictures").iterdir())
    assert [f.name for f in files][:3] == ["000000_class0.png", "000001_class0.png", "000002_class3.png"]
    for file, image in zip(files, images, strict=True):
        assert np.abs(np.asarray(Image.open(file)).astype(int) - image[..., 0]).max() <= 1
    succeed(*student, "--per-label", 2, "--seed", 1, "--out", tmp_path / "grid.png")
    assert Image.open(tmp_path / "grid.png").height > 3 * 84
    scores = json.loads(succeed("jobs/evaluate.py", "--npz", tmp_path / "x.npz"))
    assert scores["samples"] == 6 and scores["fd"] > 0 and 0 <= scores["accuracy"] <= 1


def test_the_embedded_models_are_sampled_without_options(tmp_path):
    succeed("jobs/sample.py", "--labels", "9", "--per-label", 2, "--n-ar", 1, "--out", tmp_path / "student.npz")
    row = json.loads(succeed(
        "jobs/evaluate.py", "--teacher", "--sampler.steps", 5, "--n-ar", 2, "--per-label", 2, "--out", tmp_path / "t.json",
        "--rewards", "pickscore:embedded/reward",
    ))  # fmt: skip
    assert row["prompts"] == 10 and row["reward/pickscore_se"] > 0
    heads, _, line = (tmp_path / "t.md").read_text(encoding="utf-8").splitlines()
    assert heads.startswith("| model | N_AR | FD |") and heads.endswith("| prompts | pickscore |")
    score, error = row["reward/pickscore"], row["reward/pickscore_se"]
    assert line.startswith("| teacher | 2 |") and line.endswith(f"| 10 | {score:.4g} ± {error:.4g} |")
    assert row["model"] == "teacher" and row["samples"] == 20 and json.loads((tmp_path / "t.json").read_text(encoding="utf-8")) == row


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--labels", "7-12"), "the model's classes are 0-9"),
        (("--labels", "boot"), "'boot' is not a list of class numbers"),
        (("--n-ar", 65), "--n-ar 65 is more than the 64 tokens of an image"),
        (("--n-ar", 0), "--n-ar must be at least 1, got 0"),
        (("--checkpoint", "absent.safetensors", "--preset", "tiny"), "there is no checkpoint at absent.safetensors"),
        (("--checkpoint", "setup.cfg"), "config.json is missing"),
        (("--out", "tests"), "--out tests is a folder that is not empty"),
    ],
)
def test_sampling_refuses(options, message):
    assert message in refuse("jobs/sample.py", *options)


def test_evaluation_refuses_what_is_no_npz(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 cut")
    assert "is not an .npz with arr_0" in refuse("jobs/evaluate.py", "--npz", tmp_path / "x.npz")
    np.savez(tmp_path / "y.npz", np.zeros((2, 3)), np.zeros(2))
    assert "uint8 (N, H, W, C) and integers (N,) fit" in refuse("jobs/evaluate.py", "--npz", tmp_path / "y.npz")
    objects = np.array([{"a": 1}], dtype=object)
    np.savez(tmp_path / "z.npz", objects, objects)
    assert "allow_pickle=False" in refuse("jobs/evaluate.py", "--npz", tmp_path / "z.npz")


def test_images_of_a_file_are_scored_by_rewards_with_prompts_of_a_file(tmp_path):
    pixels, labels = read_images(assets_index.IMAGES)
    np.savez(tmp_path / "x.npz", pixels[:100], labels[:100])
    (tmp_path / "prompts.txt").write_text("\n".join(class_prompts(CLASS_NAMES)), encoding="utf-8")
    (tmp_path / "three.txt").write_text("a\nb\nc\n", encoding="utf-8")
    run = ("jobs/evaluate.py", "--npz", tmp_path / "x.npz", "--rewards", "pickscore:embedded/reward")
    row = json.loads(succeed(*run, "--prompts", tmp_path / "prompts.txt"))
    assert row["prompts"] == 10 and row["reward/pickscore"] > 2 * row["reward/pickscore_se"] > 0
    assert "--rewards need to know what --npz shows: give --prompts" in refuse(*run)
    assert "three.txt has 3 prompts, but there are images of class " in refuse(*run, "--prompts", tmp_path / "three.txt")
    assert "`python jobs/fetch.py clip` gives clip:models/clip" in refuse("jobs/evaluate.py", "--rewards", "clip:openai/clip")
    assert "name a file that ends in .json" in refuse("jobs/evaluate.py", "--out", tmp_path / "row.md")


def test_distillation_refuses_bad_files(tmp_path):
    small = write_teacher(tmp_path / "small")
    assert "the model needs" in refuse(DISTILL, "--teacher", small, "--out", tmp_path / "run")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(assets_index.TEACHER.read_bytes()[:100_000])
    assert "is not a whole safetensors file" in refuse(DISTILL, "--teacher", cut, "--out", tmp_path / "run")
    other = write_random_latents(tmp_path / "other.parquet", MODEL)
    assert "holds 64 values an image, this model needs" in refuse(DISTILL, "--latents", other, "--out", tmp_path / "run")
    pq.write_table(pq.read_table(other).drop_columns(["label"]), tmp_path / "lacking.parquet")
    assert "lacks the column(s) ['label']" in refuse(DISTILL, "--latents", tmp_path / "lacking.parquet")
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    assert "Not a directory" in refuse(DISTILL, "--out", tmp_path / "file" / "run")
    assert not (tmp_path / "run").exists()


def test_distillation_refuses_bad_options(tmp_path):
    out = ("--out", tmp_path / "run")
    assert "--preset 'mar-x' is unknown; choose one of tiny, tiny-paper, mar-b" in refuse(DISTILL, "--preset", "mar-x")
    assert "Unrecognized options: --learner.step, 3 (see" in refuse(DISTILL, "--learner.step", 3)
    assert "could not convert string to float: 'abc'" in refuse(DISTILL, "--gsim.w", "abc")
    missing = refuse(DISTILL, "--preset", "mar-b", *out)
    assert all(option in missing for option in ("--teacher PATH", "--latents PATH", "--vae PATH"))
    for learner in ("learner", "rl-learner"):
        assert f" {learner.replace('-', '_')}.steps must be at least 1, got 0" in refuse(DISTILL, f"--{learner}.steps", 0, *out)
    assert " rl.judge.threads must be at least 1, got 0" in refuse(DISTILL, "--rl.judge.threads", 0, *out)
    message = refuse(DISTILL, "--stages", "gsim", "--learner.workers", 64, *out)
    assert "64 learner of {'CPU': 2.0} do not fit" in message and "lower their number" in message
    assert "--student goes with --stages rl" in refuse(DISTILL, "--stages", "rl", *out)
    assert "is not [WEIGHT*]KIND:PLACE" in refuse(DISTILL, "--stages", "gsim,rl", "--rl.rewards", "beauty", *out)
    hub = refuse(DISTILL, "--stages", "gsim,rl", "--rl.rewards", "pickscore:yuvalkirstain/PickScore_v1", *out)
    assert "`python jobs/fetch.py pickscore` gives pickscore:models/pickscore" in hub
    held_out = ("--stages", "gsim,rl", *out, "--rl.held-out-rewards")
    assert "there is nothing at openai/clip" in refuse(DISTILL, *held_out, "clip:openai/clip")
    assert "are of one kind: their figures would have one name" in refuse(DISTILL, *held_out, *["pickscore:embedded/reward"] * 2)
    (tmp_path / "prompts.txt").write_text("one\ntwo\n", encoding="utf-8")
    assert "has 2 prompts, the model has 10 classes" in refuse(DISTILL, "--stages", "gsim,rl", "--prompts", tmp_path / "prompts.txt", *out)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("preset", PRESETS)
def test_help_of_each_preset(preset):
    text = help_of(DISTILL, "--preset", preset)
    assert all(option in text for option in ("--gsim.w", "--learner.workers", "--rl.rewards", "--guard.every"))


@pytest.mark.parametrize(
    "job",
    ["sample", "evaluate", "encode", "teacher_figures", *(f"embedded/{job.stem}" for job in sorted(ROOT.glob("jobs/embedded/*.py")))],
)
def test_every_job_has_help(job):
    assert "usage" in help_of(f"jobs/{job}.py")
