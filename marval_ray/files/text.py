"""Text files as people save them."""

import codecs
import json
from pathlib import Path
from typing import Any

# The longer marks first: UTF-32's begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"), (codecs.BOM_UTF8, "utf-8-sig"),
)  # fmt: skip


def read_text(path: Path) -> str:
    """Read the text of a file in UTF-8, or in what its byte order mark says; every end of line becomes \\n.

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
    """Read the object of a JSON file. Raises ValueError with the file's name when it holds none."""
    try:
        value = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds {type(value).__name__} where a JSON object is needed")
    return value
