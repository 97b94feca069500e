"""jobs/status.py on folders of runs."""

import json
import os
import time

from commands import refuse, succeed
from rich.console import Console

from jobs.status import newest, state, summary
from marval_ray.files.storage import Storage
from marval_ray.runs.stage import GSIM

SETTINGS = {"stages": "gsim,rl", "learner": {"steps": 250}, "rl_learner": {"steps": 52}}


def text(folder) -> str:
    console = Console(width=120, record=True, file=open(os.devnull, "w", encoding="utf-8"))
    console.print(summary(Storage.of(str(folder)), SETTINGS, time.time()))
    return console.export_text()


def test_it_tells_how_far_each_stage_is(tmp_path):
    assert "no update yet" in text(tmp_path)
    rows = '{"step": 10, "generator/loss": -0.5}\n{"step": 20, "generator/loss": -0.25}\n'
    (tmp_path / "metrics.jsonl").write_text(rows, encoding="utf-8")
    shown = text(tmp_path)
    assert "gsim: update 20 of 250" in shown and "-0.25" in shown and "none yet" in shown and "running" in shown
    (tmp_path / "metrics-rl.jsonl").write_text('{"step": 1, "reward": 4.5}\n', encoding="utf-8")
    (tmp_path / "train-rl/checkpoint_7").mkdir(parents=True)
    (tmp_path / "train-rl/checkpoint_manager_snapshot.json").touch()
    (tmp_path / "summary.json").write_text("{}", encoding="utf-8")
    shown = text(tmp_path)
    assert "rl: update 1 of 52" in shown and "4.5" in shown and "checkpoint_7" in shown and "snapshot" not in shown and "finished" in shown


def test_a_half_written_line_is_left_for_the_next_look():
    assert newest('{"step": 1, "a": 1, "b": 2}\n{"step": 2, "a": 3}\n{"step": 3, "a"') == (2, {"a": 3, "b": 2})


def test_a_quiet_run_says_so(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("", encoding="utf-8")
    assert "--resume" in state(tmp_path, [GSIM], time.time() + 1000)


def test_the_command(tmp_path):
    assert "holds no run" in refuse("jobs/status.py", tmp_path)
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    assert "an older version, which cannot go on; `python jobs/export.py" in refuse("jobs/status.py", tmp_path)
    (tmp_path / "run.json").write_text(json.dumps(SETTINGS), encoding="utf-8")
    assert "no update yet" in succeed("jobs/status.py", tmp_path)
