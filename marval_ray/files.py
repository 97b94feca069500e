"""Files: text as people save it, and writing so that a crash never leaves half of one."""

import codecs
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`; on success it is flushed to disk and renamed to `path`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # safetensors makes files that nobody but their owner may read
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON; paths in it become strings."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, default=os.fspath) + "\n", encoding="utf-8")


def check_out(path: Path) -> None:
    """Raise ValueError when `path` is a folder or lies in what is none, so that nothing can be written there."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name a file to write")
    there = next(parent for parent in path.absolute().parents if parent.exists())
    if not there.is_dir():
        raise ValueError(f"{path} cannot be written: {there} is a file, not a folder")


# The longer marks first: UTF-32's begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"), (codecs.BOM_UTF8, "utf-8-sig"),
)  # fmt: skip


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, or in what its byte order mark says; every end of line becomes \\n.

    Raises ValueError with the file, the byte and the line when it is neither.
    """
    content = path.read_bytes()
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        found = f"byte {content[error.start]:#04x} in line {line}"
        raise ValueError(f"{path} is not {encoding.removesuffix('-sig').upper()} text ({found}): save it as UTF-8") from error


def read_json(path: Path) -> dict[str, Any]:
    """The object of a JSON file. Raises ValueError with the file's name when it holds none."""
    try:
        value = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds {type(value).__name__} where a JSON object is needed")
    return value
