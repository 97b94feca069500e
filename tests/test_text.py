"""Text files as people save them, and JSON that is none."""

import pytest

from marval_ray.class_names import find_class, names_of
from marval_ray.files.atomic import check_out
from marval_ray.files.text import read_json, read_text
from marval_ray.prompts import read_prompts

NAMES = ["t-shirt", "Stiefel für Käthe", "靴"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_what_editors_write_is_read_alike(tmp_path, encoding, end):
    path = tmp_path / "names ?*.txt"
    path.write_bytes(end.join([*NAMES, ""]).encode(encoding))
    assert read_text(path) == "\n".join([*NAMES, ""])
    assert read_prompts(path, 3) == NAMES
    assert names_of(tmp_path / "student.safetensors", 3, path) == tuple(NAMES)


def test_big_endian_marks_are_known(tmp_path):
    (tmp_path / "x").write_bytes("\ufeffbag".encode("utf-16-be"))
    assert read_text(tmp_path / "x") == "bag"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("bag\ncoat\ncafé".encode("latin-1"), "names.txt is not UTF-8 text .byte 0xe9 in line 3.: save it as UTF-8"),
        (b"\x89PNG\r\n", "names.txt is not UTF-8 text .byte 0x89 in line 1."),
        (b"\xff\xfea", "names.txt is not UTF-16 text"),
    ],
)
def test_other_encodings_are_named(tmp_path, content, message):
    (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_text(tmp_path / "names.txt")


def test_files_that_are_not_there_are_named(tmp_path):
    with pytest.raises(OSError, match="absent.txt"):
        read_text(tmp_path / "absent.txt")


@pytest.mark.parametrize(
    ("content", "message"), [("{", "is not JSON"), ("[1]", "holds list where a JSON object is needed"), ("", "is not JSON")]
)
def test_json_that_is_no_object_is_named(tmp_path, content, message):
    (tmp_path / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=f"config.json {message}"):
        read_json(tmp_path / "config.json")


def test_outputs_that_cannot_be_written_are_refused_early(tmp_path):
    check_out(tmp_path / "new folder/deeper/x.png")
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match="/file is a file, not a folder"):
        check_out(tmp_path / "file/deeper/x.png")
    with pytest.raises(ValueError, match="is a folder: name a file to write"):
        check_out(tmp_path)


def test_prompts_find_the_longest_name():
    names = ["shirt", "t-shirt", "boot", "ankle boot", "dress"]
    for text, label in {"a T-shirt": 1, "SHIRTS!": 0, "an ankle boot, a dress": 3, "two dresses": 4, "dressed": None, "": None}.items():
        assert find_class(text, names) == label, text
