"""docs/performance.md and the README show what docs/performance.json holds."""

import sys

import pytest
from commands import ROOT

sys.path.append(str(ROOT / "bench"))

import performance  # noqa: E402


def test_documents_show_what_was_measured(tmp_path):
    config = performance.Config(only=(), document=tmp_path / "performance.md", readme=tmp_path / "README.md")
    config.readme.write_text((ROOT / "README.md").read_text(encoding="utf-8"), encoding="utf-8")
    performance.main(config)
    assert config.readme.read_text(encoding="utf-8") == (ROOT / "README.md").read_text(encoding="utf-8")
    assert config.document.read_text(encoding="utf-8") == (ROOT / "docs/performance.md").read_text(encoding="utf-8")


def test_only_the_table_of_a_benchmark_is_kept(monkeypatch):
    small = performance.Bench("", "", ("--preset", "tiny", "--batch", "2", "--parts", "replay"))
    monkeypatch.setitem(performance.BENCHES, "updates", small)
    record = performance.measured("updates", None)
    assert record["command"] == "python bench/updates.py --preset tiny --batch 2 --parts replay"
    head, _, row = str(record["table"]).splitlines()
    assert head.startswith("|  | GFLOP |") and row.startswith("| replay |")


def test_a_benchmark_that_fails_is_named(monkeypatch):
    monkeypatch.setitem(performance.BENCHES, "updates", performance.Bench("", "", ("--preset", "none")))
    with pytest.raises(ValueError, match=r"bench/updates.py failed, see above"):
        performance.measured("updates", None)
