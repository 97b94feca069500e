"""Writing files so that a crash never leaves half of one."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success it is flushed to disk and renamed to `path`.

    Raises OSError that names a file when the disk is full or broken, also where pyarrow and safetensors name none.
    """
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
    except (OSError, SafetensorError) as error:
        if getattr(error, "filename", None):
            raise
        raise OSError(f"{path} cannot be written: {error}") from error
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
