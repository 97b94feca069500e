"""The tables of docs/results.md and the README say what docs/results.json holds."""

import sys

import pytest
from commands import ROOT

sys.path.append(str(ROOT / "bench"))

import records  # noqa: E402
import results  # noqa: E402
import tables  # noqa: E402


def test_documents_show_what_was_measured_with_the_settings_of_today(monkeypatch, tmp_path):
    """Nothing is measured anew: records of other settings would ask for a run."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(records, "distil", lambda out, *_: pytest.fail(f"{out.name} has to be measured again: make results"))
    config = results.Config(document=tmp_path / "docs/results.md", readme=tmp_path / "README.md", out=tmp_path / "none")
    config.readme.write_text((ROOT / "README.md").read_text(encoding="utf-8"), encoding="utf-8")
    results.main(config)
    assert config.readme.read_text(encoding="utf-8") == (ROOT / "README.md").read_text(encoding="utf-8")
    told, written = (path.read_text(encoding="utf-8").splitlines() for path in (config.document, ROOT / "docs/results.md"))
    assert [line for line in told if "Made by" not in line] == [line for line in written if "Made by" not in line]


def test_a_change_of_settings_asks_for_a_new_run(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(records, "distil", lambda out, stage, options: asked.append((out.name, stage)) or {"fd": 1.0})
    kept = records.Records(tmp_path / "records.json", tmp_path)
    for options in ({}, {}, {"gsim.w": 3.0}, {"gsim.w": 3.0}):
        assert kept.measure("seed-0", "gsim", options) == {"fd": 1.0}
    assert asked == [("seed-0", "gsim")] * 2


def test_rewards_are_told_in_standard_deviations():
    run = {
        "reward_before": 1.0, "reward_before_std": 0.5, "reward_after": 2.0, "rl_updates": 30,
        "student_fd_before_rl": 8.0, "student_accuracy_before_rl": 0.85, "student_diversity_before_rl": 0.9,
        "student_images_per_second_before_rl": 90.0,
        "student_fd": 7.0, "student_accuracy": 0.9, "student_diversity": 0.8, "student_images_per_second": 91.0,
    }  # fmt: skip
    lines = tables.rl_table({"default": [run, run | {"reward_after": 2.2}]}).splitlines()
    assert lines[2] == "| before RL | 0 | 8.00 | 0.850 | 0.900 | 0 |"
    assert lines[3] == "| default | 2.20 ± 0.20 | 7.00 | 0.900 | 0.800 | 30 |"
