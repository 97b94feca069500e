"""Checksums of a folder's files, so that a damaged checkpoint is told from a whole one before anything is loaded; names of tensors."""

import hashlib
import json
from pathlib import Path

from marval_ray.files.tensors import StateDict

PREFIX = "checksums-"


def write_checksums(folder: Path, name: str) -> None:
    """Write the SHA-256 of every file in `folder` to `checksums-NAME.json` in it. name: of who wrote the files."""
    sums = {str(path.relative_to(folder)): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    (folder / f"{PREFIX}{name}.json").write_text(json.dumps(sums, indent=2), encoding="utf-8")


def damage(folder: Path) -> str | None:
    """Say what is wrong with the first file that is missing or is not as it was written; None when all are whole."""
    lists = sorted(folder.glob(f"{PREFIX}*.json"))
    if not lists:
        return "its checksums are missing"
    for path in lists:
        try:
            sums = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:  # neither JSON nor text
            return f"{path.name} is damaged"
        for name, expected in sums.items():
            file = folder / name
            if not file.is_file():
                return f"{name} is missing"
            if sha256(file) != expected:
                return f"{name} is damaged"
    return None


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(state: StateDict) -> str:
    """Name tensors by 16 hex digits, the same for the same names, shapes and float32 values, and for no others."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.cpu().float().numpy().tobytes())
    return digest.hexdigest()[:16]
