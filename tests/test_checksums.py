"""Whole folders are told from damaged ones."""

import pytest

from marval_ray.files.checksums import damage, write_checksums


@pytest.fixture
def folder(tmp_path):
    """A checkpoint in two parts, as two ranks write them."""
    for rank in "01":
        part = tmp_path / rank
        (part / "student").mkdir(parents=True)
        (part / "student" / f"weights-{rank}.pt").write_bytes(bytes(range(200)))
        write_checksums(part, rank)
        for path in [p for p in part.rglob("*") if p.is_file()]:
            target = tmp_path / "whole" / path.relative_to(part)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
    return tmp_path / "whole"


def test_whole_parts_are_whole(folder):
    assert damage(folder) is None


@pytest.mark.parametrize("harm", [lambda data: data[:100], lambda data: data[:50] + b"x" + data[51:], lambda data: b""])
@pytest.mark.parametrize("rank", "01")
def test_a_changed_byte_or_a_missing_end_is_seen(folder, harm, rank):
    path = folder / "student" / f"weights-{rank}.pt"
    path.write_bytes(harm(path.read_bytes()))
    assert damage(folder) == f"student/weights-{rank}.pt is damaged"


def test_a_missing_file_and_damaged_or_missing_checksums_are_seen(folder):
    (folder / "student" / "weights-1.pt").unlink()
    assert damage(folder) == "student/weights-1.pt is missing"
    (folder / "checksums-0.json").write_bytes(b"\xff{")
    assert damage(folder) == "checksums-0.json is damaged"
    for path in folder.glob("checksums*"):
        path.unlink()
    assert damage(folder) == "its checksums are missing"
