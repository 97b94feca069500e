"""Stages: their files, their names, their metrics."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from actors.screen import ROWS
from marval_ray.config import LearnerConfig
from marval_ray.embedded import assets_index
from marval_ray.evaluation.metrics import SCORES
from marval_ray.families.mar.config import ModelConfig
from marval_ray.files.storage import Storage
from marval_ray.hub.layout import codec_beside, read_config
from marval_ray.presets import MODELS, PRESETS
from marval_ray.runs.folder import OWN, RECORDS, check_run_folder, open_run_folder
from marval_ray.runs.stage import GSIM, RL, STAGES, read_metrics, rows_of, stages_of
from marval_ray.runs.students import STUDENTS


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_a_run_folder_knows_the_files_of_every_stage(stage):
    assert set(stage.files) <= set(OWN) and stage.metrics in RECORDS and stage.student in STUDENTS
    assert stage.plot.endswith(".png")  # which is how pictures are told


def test_stages_share_no_file():
    files = [name for stage in STAGES for name in (*stage.files, stage.plot)]
    assert len(set(files)) == len(files) and len(set(OWN)) == len(OWN)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_every_preset_has_the_learner_of_every_stage(stage):
    assert all(isinstance(getattr(preset, stage.learner), LearnerConfig) for preset in PRESETS.values())


def test_stages_are_found_by_their_names():
    assert stages_of("gsim,rl") == (GSIM, RL) and stages_of("rl") == (RL,)


def test_the_bar_and_the_live_table_name_the_figures_of_the_judge():
    assert set(ROWS["held out"]) == {score.held_out for score in SCORES}
    assert {name for name in RL.shown if name.startswith("held_out/")} <= set(ROWS["held out"])


@dataclass(frozen=True)
class Settings:
    seed: int = 0
    model: ModelConfig = MODELS["tiny"]
    vae: Path = assets_index.VAE


def test_a_run_that_starts_anew_leaves_nothing_of_the_old_one(tmp_path):
    for name in (*OWN, "losses.png", "mine.txt"):
        (tmp_path / name).write_text("", encoding="utf-8")
    open_run_folder(Storage.of(str(tmp_path)), Settings(), overwrite=True)
    assert json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))["vae"] == "embedded/vae"
    assert read_config(tmp_path) == MODELS["tiny"] and codec_beside(tmp_path / GSIM.student) == tmp_path / "codec"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["codec", "config.json", "mine.txt", "run.json"]
    assert sorted(path.name for path in (tmp_path / "codec").iterdir()) == sorted(path.name for path in assets_index.VAE.iterdir())


def test_the_codec_of_a_run_is_copied_once_and_may_be_a_single_file(tmp_path):
    (tmp_path / "kl16.ckpt").write_text("first", encoding="utf-8")
    storage, settings = Storage.of(str(tmp_path / "run")), Settings(vae=tmp_path / "kl16.ckpt")
    open_run_folder(storage, settings, overwrite=False)
    (tmp_path / "kl16.ckpt").write_text("second", encoding="utf-8")
    open_run_folder(storage, settings, overwrite=False)  # as a run that is resumed does
    codec = codec_beside(storage.folder / GSIM.student)
    assert codec == storage.folder / "codec/kl16.ckpt" and codec.read_text(encoding="utf-8") == "first"


@pytest.mark.parametrize("name", ["config.json", "model_index.json", "README.md"])
def test_a_place_that_holds_something_else_is_left_alone(tmp_path, name):
    (tmp_path / name).write_text("{}", encoding="utf-8")
    storage = Storage.of(str(tmp_path))
    with pytest.raises(ValueError, match=f"holds {name} of something else: choose another --out"):
        check_run_folder(storage, Settings(), resume=False, overwrite=False)
    check_run_folder(storage, Settings(), resume=False, overwrite=True)


def test_a_run_of_an_older_version_says_how_its_student_is_kept(tmp_path):
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"which cannot go on; `python jobs/export.py .* --to FOLDER` takes its student out"):
        check_run_folder(Storage.of(str(tmp_path)), Settings(), resume=True, overwrite=False)


def test_a_last_row_that_is_not_whole_does_not_count(tmp_path):
    text = '{"step": 1, "reward": 0.5}\n{"step": 2, "rew'
    (tmp_path / RL.metrics).write_text(text, encoding="utf-8")
    assert read_metrics(tmp_path / RL.metrics) == rows_of(text) == [{"step": 1, "reward": 0.5}]
