"""Checkpoints side by side by the real command."""

import json
import shutil

import numpy as np
import pytest
from commands import refuse, succeed
from PIL import Image
from small import MODEL, write_teacher

from jobs import compare
from marval_ray.embedded import assets_index

COMPARE, STUDENT = "jobs/compare.py", assets_index.STUDENT


def test_a_student_is_told_from_the_teacher_without_training(tmp_path):
    """One step of the undistilled teacher is far behind in every figure, and equal seeds give equal pictures."""
    run = tmp_path / "run"
    shutil.copytree(assets_index.STUDENT.parent, run)
    untrained = tmp_path / "untrained"
    untrained.mkdir()
    shutil.copy(assets_index.TEACHER, untrained / "student.safetensors")
    shutil.copy(run / "config.json", untrained)
    out = tmp_path / "out"
    options = ["--n-ar", 1, 4, "--per-label", 18, "--columns", 2, "--rewards", "pickscore:embedded/reward", "--out", out]
    text = succeed(COMPARE, run, untrained, *options)
    assert "FD at N_AR = 4: run is better than untrained, by both judges and two standard errors." in text
    rows = json.loads((out / "figures.json").read_text())["rows"]
    assert [(row["model"], row["n_ar"]) for row in rows] == [("run", 1), ("run", 4), ("untrained", 1), ("untrained", 4)]
    assert "pickscore at N_AR = 4: run is better than untrained (" in text and "paired, 180 images of 10 prompts)." in text
    found = json.loads((out / "figures.json").read_text())["differences"]
    assert [(one["n_ar"], one["models"]) for one in found] == [(1, ["run", "untrained"]), (4, ["run", "untrained"])]
    assert found[1]["mean"] == pytest.approx(rows[1]["reward/pickscore"] - rows[3]["reward/pickscore"], abs=1e-4)
    assert 0 < found[1]["error"] < found[1]["mean"] / 2 and rows[1]["prompts"] == 10
    assert rows[1]["fd"] < rows[3]["fd"] / 2 and rows[1]["reward/pickscore"] > rows[3]["reward/pickscore"] + 1
    assert all(row["sets"] == 3 and row["fd_b_se"] > 0 and row["reward/pickscore_se"] > 0 for row in rows)
    page = (out / "compare.html").read_text()
    assert "<th>pickscore</th>" in page and "run is better than untrained" in page and "src=\"data:image/png" in page
    assert Image.open(out / "grid.png").width > 4 * 2 * 84
    again = tmp_path / "again"
    succeed(COMPARE, run, run / "student.safetensors", "--n-ar", 1, "--per-label", 6, "--out", again)
    assert "are not told apart" in (again / "figures.json").read_text()
    pictures = np.asarray(Image.open(again / "grid.png").convert("L"))[40:, 60:]
    first = pictures[:, : 4 * 87]
    assert any((first[:, :300] == pictures[:, at : at + 300]).all() for at in range(340, pictures.shape[1] - 300))


def test_the_teacher_draws_with_its_chain():
    source = compare.source("teacher", compare.Config(("teacher", "x")), loops=8)
    assert source.teacher and source.generation().sampler.noise_steps == 100


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["teacher"], "name two checkpoints at least"),
        (["teacher", "teacher"], "name two checkpoints at least, each once"),
        (["teacher", "nowhere.safetensors"], "nowhere.safetensors"),
        (["teacher", STUDENT, "--n-ar", 65], "--n-ar 65 is more than the 64 tokens of an image"),
        (["teacher", STUDENT, "--n-ar", 0], "--n-ar must be one number or several, at least 1, got 0"),
        (["teacher", STUDENT, "--rewards", "pickscore:some/body"], "`python jobs/fetch.py pickscore` gives pickscore:models/pickscore"),
        (["teacher", STUDENT, "--rewards", *["pickscore:embedded/reward"] * 2], "are of one kind: their figures would have one name"),
        (["teacher", STUDENT, "--labels", "11"], "the model's classes are 0-9"),
    ],
)
def test_what_cannot_be_compared_is_said_before_anything_is_drawn(arguments, said, tmp_path):
    assert said in refuse(COMPARE, *arguments, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_models_of_other_classes_are_not_compared(tmp_path):
    model = write_teacher(tmp_path / "other", MODEL)
    said = refuse(COMPARE, STUDENT, model, "--vae", assets_index.VAE, "--labels", 0, "--out", tmp_path / "out")
    assert "these draw different things and cannot be compared" in said and "3 classes, 256 pixels" in said


def test_checkpoints_whose_paths_end_alike_are_called_by_the_whole_of_it():
    assert compare.titled(["a/run/student.safetensors", "teacher"]) == {"a/run/student.safetensors": "run/student", "teacher": "teacher"}
    assert list(compare.titled(["a/run", "b/run"]).values()) == ["a/run", "b/run"]
