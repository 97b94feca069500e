"""Prompts of models that read texts, in the forms in which sets of them are published."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from marval_ray.files.image_tables import PROMPT_COLUMNS
from marval_ray.files.text import read_text
from marval_ray.types import Prompts

Parsed = TypeVar("Parsed", dict[str, Any], list[Any])
NEEDED = {dict: "an object", list: "a list of texts"}
COLUMN = "Prompt"
"""Of PartiPrompts.tsv."""


@dataclass(frozen=True)
class PromptSet:
    """Prompts in their order. records: all that a line of JSONL says of each. names: of the text files, a prompt each."""

    texts: tuple[str, ...]
    records: tuple[dict[str, Any], ...] = ()
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def prompts(self) -> Prompts:
        return Prompts(self.texts)


def read_set(path: Path) -> PromptSet:
    """Read the prompts of a file, whose ending says what it is (READERS), or of a folder of text files, a prompt each.

    Raises ValueError with file and line when it holds none, or something else.
    """
    if not path.exists():
        raise ValueError(f"there is no prompt file at {path}")
    if not path.is_dir() and path.suffix not in READERS:
        raise ValueError(f"{path}: prompts are a folder of .txt files, or a file that ends in {', '.join(READERS)}")
    found = read_folder(path) if path.is_dir() else READERS[path.suffix](path)
    if not found.texts:
        raise ValueError(f"{path} holds no prompts")
    return found


def read_folder(folder: Path) -> PromptSet:
    """Read text files in the order of their names, as DPG-Bench has its prompts."""
    paths = sorted(folder.glob("*.txt"))
    return PromptSet(checked((str(path), read_text(path)) for path in paths), names=tuple(path.stem for path in paths))


def read_lines(path: Path) -> PromptSet:
    """Read a prompt a line."""
    return PromptSet(checked(lines_of(path)))


def read_jsonl(path: Path) -> PromptSet:
    """Read the key "prompt" of an object a line, and keep the whole object, which GenEval's tool wants back."""
    records = [(where, parsed(line, where, dict)) for where, line in lines_of(path)]
    texts = checked((f'{where}, key "prompt"', record.get("prompt")) for where, record in records)
    return PromptSet(texts, tuple(record for _, record in records))


def read_json(path: Path) -> PromptSet:
    """Read a list of texts, as HPSv2 has one for each of its styles."""
    values = parsed(read_text(path), str(path), list)
    return PromptSet(checked((f"{path}, entry {number}", value) for number, value in enumerate(values, 1)))


def read_tsv(path: Path) -> PromptSet:
    """Read the column Prompt under a line of names. Quotation marks are part of the text: a prompt of PartiPrompts begins with one."""
    lines = [(where, line.split("\t")) for where, line in lines_of(path)]
    heads = lines[0][1] if lines else []
    if COLUMN not in heads:
        raise ValueError(f"{path}, line 1: there is no column {COLUMN} among {heads}")
    place = slice(heads.index(COLUMN), heads.index(COLUMN) + 1)
    return PromptSet(checked((where, "".join(cells[place])) for where, cells in lines[1:]))


def read_parquet(path: Path) -> PromptSet:
    """Read the first column of PROMPT_COLUMNS that there is; Pick-a-Pic has `caption`."""
    try:
        names = pq.read_schema(path).names
        found = [name for name in PROMPT_COLUMNS if name in names]
        if not found:
            raise ValueError(f"{path} has no column {' or '.join(PROMPT_COLUMNS)}; it has {names}")
        values = pq.read_table(path, columns=found[:1])[found[0]].to_pylist()
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not Parquet: {error}") from error
    return PromptSet(checked((f"{path}, row {number}", value) for number, value in enumerate(values, 1)))


READERS = {".txt": read_lines, ".jsonl": read_jsonl, ".json": read_json, ".tsv": read_tsv, ".parquet": read_parquet}


def lines_of(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the lines of a text file that are not blank, each behind its place."""
    lines = enumerate(read_text(path).split("\n"), 1)  # splitlines would end a line also at what JSON has within texts, such as U+2028
    return ((f"{path}, line {number}", line) for number, line in lines if line.strip())


def parsed(text: str, where: str, kind: type[Parsed]) -> Parsed:
    """Return the JSON value of `text`. Raises ValueError that begins with `where` when it is not of this kind."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON: {error}") from error
    if not isinstance(value, kind):
        raise ValueError(f"{where} holds {value!r:.60} where {NEEDED[kind]} is needed")
    return value


def checked(found: Iterable[tuple[str, Any]]) -> tuple[str, ...]:
    """Return prompts, each given behind its place, without blanks around them. Raises ValueError that names the place of what is none."""
    texts = []
    for where, value in found:
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{where}: {value!r:.60} is no prompt: write a text there")
        texts.append(value.strip())
    return tuple(texts)
