"""What bench/over_optimisation.py makes of a run."""

import json
import sys

import numpy as np
import torch
from commands import ROOT
from safetensors.torch import save_file

sys.path.append(str(ROOT / "bench"))

import over_optimisation  # noqa: E402


def figures(fd: float, diversity: float = 0.9) -> dict:
    return {"fd": fd, "kid": 1.0, "accuracy": 0.9, "diversity": diversity, "recall": 0.7, "samples": 500, "fd_b": 0.0}


def test_the_guard_keeps_the_last_student_inside_its_bands_until_patience_ends():
    course = {0: figures(6.0), 13: figures(5.0), 26: figures(5.5), 39: figures(5.0, 0.7), 52: figures(7.0), 65: figures(4.0)}
    assert over_optimisation.kept_by_guard(course) == 26


def test_each_checkpoint_is_collected_once(tmp_path):
    for number, step in enumerate((13, 26)):
        folder = tmp_path / f"checkpoint_{number}"
        folder.mkdir()
        (folder / "progress.json").write_text(json.dumps({"step": step}), encoding="utf-8")
        save_file({"w": torch.full((1,), float(step))}, folder / "ema.safetensors")
    students: dict = {}
    for folders in ([tmp_path / "checkpoint_0"], sorted(tmp_path.iterdir())):
        over_optimisation.collect(folders, students)
    assert {step: state["w"].item() for step, state in students.items()} == {13: 13.0, 26: 26.0}


def test_the_table_has_mean_rewards_and_a_star_for_what_the_guard_keeps(tmp_path):
    row = {name: 1.0 for column in over_optimisation.COLUMNS for name in (column, f"{column}_se")}
    course = over_optimisation.Course("default", {0: row, 3: row}, np.array([1.0, 3.0, 5.0]), kept=3)
    before, after = over_optimisation.lines(course, every=2)
    assert before[:3] == ["default", "0", "0"] and after[:4] == ["default *", "3", "+4.00", "1.00 ± 1.00"]
    over_optimisation.plot(tmp_path / "images/courses.png", [course])
    assert (tmp_path / "images/courses.png").stat().st_size > 10_000
