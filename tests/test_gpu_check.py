"""bench/gpu_check.py, without the GPU: what it keeps, and what it does when it is called again."""

import json
import shutil

import pytest
from commands import ROOT, run

CHECK = ROOT / "bench/gpu_check.py"
TESTS = """
import pytest
pytestmark = pytest.mark.gpu
def test_good(): pass
def test_bad(): assert {good}
@pytest.mark.parametrize("what", ["a b"])
def test_left_out(what): pytest.skip("no GPU")
"""


@pytest.fixture
def check(tmp_path):
    """Calls a copy of the script in a project of its own, whose tests are those above."""
    copy = tmp_path / "bench/gpu_check.py"
    copy.parent.mkdir()
    shutil.copy(CHECK, copy)
    (tmp_path / "tests").mkdir()

    def check(*options):
        done = run(copy, "--out", tmp_path / "out", "--presets", "tiny", "--parts", "reward", *options)
        return done, json.loads((tmp_path / "out/check.json").read_text(encoding="utf-8"))

    return check


def test_what_passed_is_kept_and_what_failed_is_tried_again(check, tmp_path):
    file = tmp_path / "tests/test_small.py"
    file.write_text(TESTS.format(good=False), encoding="utf-8")
    speed = [{"preset": "tiny", "part": "reward", "batch": 16, "seconds": 0.01, "gigabytes": 0.0}]
    (tmp_path / "out").mkdir()
    (tmp_path / "out/tiny-reward.json").write_text(json.dumps(speed), encoding="utf-8")  # was measured
    done, report = check()
    assert sorted(report["tests"].values()) == ["FAILED", "PASSED", "SKIPPED"] and report["speeds"] == speed
    assert done.returncode == 1 and "FAILED: " in done.stdout and "| tiny | reward | 16 | 10.00 | 0.0 |" in done.stdout
    file.write_text(TESTS.format(good=True), encoding="utf-8")
    done, report = check()
    assert sorted(report["tests"].values()) == ["PASSED", "PASSED", "SKIPPED"]
    assert "1 passed, 1 skipped, 1 deselected" in (tmp_path / "out/tests.log").read_text(encoding="utf-8").splitlines()[-1]
    assert done.returncode == 1  # something was not run


def test_without_time_nothing_is_begun_and_all_is_named(check):
    done, report = check("--seconds", 0)
    assert done.returncode == 1 and report["tests"] == {} and report["speeds"] == []
    assert "not measured: tiny reward" in done.stdout and "no test was run" in done.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [(("--wheels", "nowhere"), "no wheels in nowhere"), (("--presets", "tiny"), "nothing is known to be measured of tiny: name --parts")],
)
def test_mistakes_are_one_line(tmp_path, options, said):
    done = run(CHECK, "--out", tmp_path, *options)
    assert done.returncode and said in done.stderr and "Traceback" not in done.stderr
