"""bench/compare.py: when a change of speed counts."""

import sys

import pytest
from commands import ROOT

sys.path.append(str(ROOT / "bench"))

from compare import Change, tree_of  # noqa: E402


@pytest.mark.parametrize(
    ("now", "verdict"), [([20, 22, 18, 20], "faster"), ([8, 8.1, 7.9, 8], "SLOWER"), ([10, 13, 8, 10.5], "the same")]
)
def test_a_change_counts_beyond_two_standard_errors(now, verdict):
    assert Change.of("speed", [10.0, 10.5, 9.5, 10.0], [float(value) for value in now]).verdict == verdict


def test_the_ratio_is_that_of_rounds_so_that_a_slow_hour_of_the_machine_does_not_matter():
    change = Change.of("speed", [10.0, 5.0, 20.0], [11.0, 5.5, 22.0])
    assert change.ratio == pytest.approx(1.1) and change.error == pytest.approx(0, abs=1e-12) and change.verdict == "faster"


def test_an_unknown_commit_is_said_so():
    with pytest.raises(ValueError, match="no-such-commit"), tree_of("no-such-commit"):
        pass
