"""Fetching published files: resumed where it broke off, whole before it has its name, the same as at the first time."""

import hashlib
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tqdm import tqdm

from marval_ray.files.atomic import write_json
from marval_ray.files.checksums import sha256
from marval_ray.files.text import read_json
from marval_ray.hub.published import File

SUMS = "sha256.json"
"""In each folder: SHA-256 of its files as they were first fetched."""
CHUNK = 1 << 20
TIMEOUT = 60
"""Seconds without a byte."""


def fetch_file(file: File, folder: Path, hub: str | None = None) -> Path:
    """Fetch `file` into `folder` unless it is there, and return its path. hub: another address of the Hub.

    Raises ValueError when it cannot be had or is another one than before, which says where to find it and what to place where.
    """
    path = folder / file.name
    folder.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        try:
            _from_hub(file, folder, hub) if file.on_hub else _from_address(file, path)
        except OSError as error:  # of sockets, HTTP and of huggingface_hub's own
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ValueError(f"{file.name} cannot be fetched ({reason:.200}): place it from {file.page} at {path}") from error
    check_file(file, path)
    return path


def check_file(file: File, path: Path) -> None:
    """Compare with the sums that are known, and note those of a first time. Raises ValueError when they differ."""
    sums_path = path.parent / SUMS
    sums: dict[str, str] = read_json(sums_path) if sums_path.exists() else {}
    found = sha256(path)
    for expected, who in ((file.sha256, "its source states"), (sums.get(file.name), f"{sums_path} has of the first time")):
        if expected is not None and found != expected:
            raise ValueError(f"{path} has SHA-256 {found[:16]}..., {who} {expected[:16]}...: remove it to fetch it again")
    if file.git_blob is not None and git_blob(path) != file.git_blob:
        raise ValueError(f"{path} is not the file of its source (git blob {git_blob(path)[:16]}...): remove it to fetch it again")
    if file.name not in sums:
        write_json(sums_path, sums | {file.name: found})


def git_blob(path: Path) -> str:
    """Return the name that git gives to a file's content."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as content:
        while chunk := content.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _from_hub(file: File, folder: Path, hub: str | None) -> None:
    from huggingface_hub import hf_hub_download  # seconds, which --list and --plan need not
    from huggingface_hub.errors import GatedRepoError

    assert file.on_hub is not None
    repository, name = file.on_hub
    try:
        got = hf_hub_download(repository, name, local_dir=folder, endpoint=hub)
    except GatedRepoError as error:
        cure = f"do so at https://huggingface.co/{repository}, then `hf auth login` here"
        raise ValueError(f"{repository} is for those alone who accepted its licence: {cure}") from error
    Path(str(got)).rename(folder / file.name)


def _from_address(file: File, path: Path) -> None:
    """Go on where a part ends, if the server can; a part becomes the file when it is whole."""
    part = path.with_name(f"{path.name}.part")
    begun = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(file.source, headers={"Range": f"bytes={begun}-"} if begun else {})
    with _opened(request, part) as answer:
        begun = begun if answer.status == 206 else 0
        length = answer.headers.get("Content-Length")
        total = None if length is None else begun + int(length)
        with part.open("ab" if begun else "wb") as out, tqdm(total=total, initial=begun, unit="B", unit_scale=True, desc=file.name) as bar:
            while chunk := answer.read(CHUNK):
                out.write(chunk)
                bar.update(len(chunk))
    if total is not None and part.stat().st_size != total:
        raise OSError(f"it broke off after {part.stat().st_size:,} of {total:,} bytes; the same command goes on")
    part.rename(path)


def _opened(request: urllib.request.Request, part: Path) -> Any:
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # the part is whole already, or no part of this file
            raise
        part.unlink()
        request.remove_header("Range")
        return urllib.request.urlopen(request, timeout=TIMEOUT)
