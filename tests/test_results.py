"""The tables of docs/results.md and the README say what docs/results.json holds."""

import sys
from operator import attrgetter

import pytest
import tyro
from commands import ROOT

sys.path.append(str(ROOT / "bench"))

import ablations  # noqa: E402
import black_box  # noqa: E402
import over_optimisation  # noqa: E402
import records  # noqa: E402
import results  # noqa: E402
import tables  # noqa: E402
import text_to_image  # noqa: E402

from jobs import distill  # noqa: E402
from marval_ray.runs.measured import Measured  # noqa: E402


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


@pytest.mark.parametrize(("bench", "name"), [(text_to_image, "text-to-image.md"), (black_box, "rl.md")])
def test_pages_with_figures_between_marks_show_what_was_measured_with_the_settings_of_today(monkeypatch, tmp_path, bench, name):
    monkeypatch.chdir(ROOT)
    for module, measure in ((records, "distil"), (text_to_image, "without_residuals")):
        monkeypatch.setattr(module, measure, lambda *asked: pytest.fail(f"to be measured again: python {bench.__file__}"))
    page, written = tmp_path / name, (ROOT / "docs" / name).read_text(encoding="utf-8")
    page.write_text(written, encoding="utf-8")
    bench.main(bench.Config(document=page))
    assert page.read_text(encoding="utf-8") == written


def test_a_change_of_settings_asks_for_a_new_run(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(records, "distil", lambda out, stage, options: asked.append((out.name, stage)) or {"fd": 1.0})
    kept = records.Records(tmp_path / "records.json", tmp_path)
    for options in ({}, {}, {"gsim.w": 3.0}, {"gsim.w": 3.0}):
        assert kept.measure("seed-0", "gsim", options) == {"fd": 1.0}
    assert asked == [("seed-0", "gsim")] * 2


def test_files_that_were_trained_anew_ask_for_a_new_run(monkeypatch, tmp_path):
    asked, weights = [], tmp_path / "teacher.safetensors"
    monkeypatch.setattr(records, "distil", lambda out, stage, options: asked.append(stage) or {})
    monkeypatch.setitem(records.FILES["tiny"], "gsim", (weights,))
    for content in (b"old", b"old", b"new"):
        weights.write_bytes(content)
        records.Records(tmp_path / "records.json", tmp_path).measure("seed-0", "gsim", {})
    assert asked == ["gsim"] * 2


def summary(fd: float, fd_b: float) -> dict:
    """Of a run whose student has these distances; the teacher's are 6 and 3."""

    def at(model: str, when: str, fd: float, fd_b: float) -> dict:
        scores = {"fd": fd, "fd_b": fd_b, "accuracy": 0.9, "accuracy_b": 0.9, "diversity": 0.9, "diversity_b": 0.9}
        errors = {f"{name}_se": 0.1 for name in scores}
        return Measured(model, when, 8, scores | errors, 5.0 if model == "teacher" else 80.0).flat()

    moments = {
        ("teacher", ""): (6.0, 3.0), ("student", "before"): (90.0, 50.0), ("student", "before_rl"): (7.0, 4.0), ("student", ""): (fd, fd_b)
    }
    row = {"n_ar": 8, "fd": fd, "fd_b": fd_b, "accuracy": 0.9, "accuracy_b": 0.9, "diversity": 0.9, "images_per_second": 80.0}
    return {
        "reward_before": 1.0, "reward_before_std": 0.5, "reward_after": 1.5, "seconds_gsim": 100.0, "seconds_rl": 50.0,
        **{name: value for key, values in moments.items() for name, value in at(*key, *values).items()},
        "loops": [row | {"model": "student"}, row | {"model": "teacher", "images_per_second": 5.0}],
    }  # fmt: skip


def test_the_headline_shows_each_moment_by_both_judges():
    lines = tables.headline([summary(5.0, 2.5)], tables.SHORT).splitlines()
    assert lines[0] == "|  | sampling | FD | FD (B) | accuracy | accuracy (B) | diversity | images/s |"
    assert [line.split(" | ")[2] for line in lines[2:]] == ["6.00 ± 0.10", "90.00 ± 0.10", "7.00 ± 0.10", "5.00 ± 0.10"]
    assert tables.loop_table([summary(5.0, 2.5)]).splitlines()[2].startswith("| 8 | 5.00 | 2.50 | 0.900 |")


@pytest.mark.parametrize(
    ("fd", "fd_b", "verdict"), [(5, 2.5, "better, by both"), (7, 3.5, "worse, by both"), (5, 2.9, "neither better nor worse")]
)
def test_a_claim_takes_both_judges_and_two_errors(fd, fd_b, verdict):
    said = tables.claims([summary(float(fd), fd_b)])
    assert f"* FD against the teacher's: {verdict}" in said and "16 times the images/s" in said
    alone = {name: value for name, value in summary(float(fd), fd_b).items() if not (name.startswith("teacher") and name.endswith("_se"))}
    assert "* FD against the teacher's: no claim" in tables.claims([alone])


def test_rewards_are_told_in_standard_deviations():
    run = {
        "reward_before": 1.0, "reward_before_std": 0.5, "reward_after": 2.0, "seconds_rl": 30.0,
        "student_fd_before_rl": 8.0, "student_accuracy_before_rl": 0.85, "student_diversity_before_rl": 0.9,
        "student_images_per_second_before_rl": 90.0,
        "student_fd": 7.0, "student_accuracy": 0.9, "student_diversity": 0.8, "student_images_per_second": 91.0,
    }  # fmt: skip
    lines = tables.rl_table({"default": [run, run | {"reward_after": 2.2}]}).splitlines()
    assert lines[2] == "| before RL | 0 | 8.00 | 0.850 | 0.900 |  |"
    assert lines[3] == "| default | 2.20 ± 0.20 | 7.00 | 0.900 | 0.800 | 30 |"


def test_variants_of_gsim_have_errors_over_runs_or_over_sets():
    one, other = summary(5.0, 2.5), summary(5.4, 2.5)
    alone = summary(6.0, 3.0)
    alone["loops"] = [row | {"fd_se": 0.3} for row in alone["loops"]]
    lines = tables.gsim_table({"default": [one, other], "k = 0": [alone]}, (8,)).splitlines()
    assert lines[0].startswith("| change | FD, 8 loops | FD (B) |")
    assert lines[2].startswith("| default | 5.20 ± 0.20 | 2.50 |") and lines[3].startswith("| k = 0 | 6.00 ± 0.30 | 3.00 |")


@pytest.mark.parametrize(
    ("preset", "variants"),
    [
        ("tiny", ablations.GSIM), ("tiny", ablations.RL), ("tiny", {"quick": ablations.QUICK}), ("tiny", over_optimisation.VARIANTS),
        ("tiny", {"open": over_optimisation.OPEN}), ("tiny", {"policy": black_box.POLICY} | black_box.VARIANTS),
        ("tiny-t2i", text_to_image.VARIANTS),
    ],
)  # fmt: skip
def test_what_benches_change_is_what_the_command_reads(preset, variants):
    default = distill.defaults(preset)
    for options in variants.values():
        config = tyro.cli(distill.Config, args=records.flags_of(options), default=default)
        assert {name: attrgetter(name)(config) for name in options} == options
