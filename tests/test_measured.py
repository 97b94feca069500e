"""What a run measured: its names in summary.json, and what reads them; the table of metrics."""

from dataclasses import fields

import pytest

from marval_ray.evaluation.metrics import ACCURACY, DIVERSITY, FD, REPORTED, SCORES, SPEED
from marval_ray.evaluation.scores import Evaluator, Scores
from marval_ray.evaluation.sweep import best, frugal
from marval_ray.runs.measured import TITLES, Measured, gain, measured_in
from marval_ray.runs.report.page import headline

ROW = {
    "model": "student", "n_ar": 8, "fd": 7.314, "fd_se": 0.04, "fd_b": 3.5, "accuracy": 0.93, "diversity": 0.8, "recall": 0.6,
    "images_per_second": 90.0,
}  # fmt: skip


def everything() -> list[Measured]:
    return [Measured.of(ROW | {"fd": 7.0 + index}, model, when) for index, (model, when) in enumerate(TITLES)]


def test_names_in_a_summary_are_as_they_were():
    assert Measured.of(ROW, "student", "before_rl").flat() == {
        "student_fd_before_rl": 7.314, "student_fd_se_before_rl": 0.04, "student_fd_b_before_rl": 3.5,
        "student_accuracy_before_rl": 0.93, "student_diversity_before_rl": 0.8,
        "student_images_per_second_before_rl": 90.0, "student_n_ar_before_rl": 8,
    }  # fmt: skip
    assert {"teacher_fd", "teacher_n_ar"} < Measured.of(ROW, "teacher").flat().keys()


def test_what_is_written_is_read_again_and_none_hides_another():
    summary = {name: value for measured in everything() for name, value in measured.flat().items()}
    assert list(measured_in(summary | {"seconds_gsim": 1.0}).values()) == everything()
    assert len(summary) == 7 * len(TITLES) and measured_in({"samples": 500}) == {}


@pytest.mark.parametrize("key", TITLES)
def test_one_moment_alone_is_read_alone(key):
    one = Measured.of(ROW, *key)
    assert measured_in(one.flat()) == {key: one}


def test_every_moment_has_a_line_with_what_each_judge_says():
    table = headline({(measured.model, measured.when): measured for measured in everything()})
    assert table.headings == ["model", "N_AR", "FD", "FD (B)", "accuracy", "diversity", "images/s"]
    assert table.lines == [
        [title, "8", f"{7 + index:.2f} ± 0.04", "3.50", "0.930", "0.800", "90"] for index, title in enumerate(TITLES.values())
    ]


def test_the_gain_is_told_in_standard_deviations_of_the_rewards_before():
    assert gain({"reward_before": 20.0, "reward_before_std": 2.0, "reward_after": 22.5}) == 1.25


def test_the_table_has_every_score_and_what_it_takes():
    assert [score.name for score in SCORES] == [field.name for field in fields(Scores) if field.name != "samples"]
    parts = {field.name for field in fields(Evaluator)}
    assert all(score.needs and set(score.needs) <= parts for score in SCORES) and set(REPORTED) < set(SCORES)


def test_numbers_are_written_as_the_table_says():
    assert FD.said(7.314) == "FD 7.31" and DIVERSITY.text(0.8) == "0.800" and SPEED.said(1234.5) == "images/s 1234"
    assert FD.held_out == "held_out/fd" and ACCURACY.better == "higher"
    rows = [ROW, ROW | {"fd": 5.0}]
    assert FD.better == "lower" and best(rows) == rows[1]


def test_a_few_loops_of_nearly_the_best_fd_are_preferred():
    rows = [ROW | {"n_ar": n, "fd": fd} for n, fd in ((64, 5.0), (8, 5.2), (4, 5.3), (16, 5.1))]
    assert best(rows)["n_ar"] == 64 and frugal(rows)["n_ar"] == 8
