"""One run in one place: a lock that names its owner, and that a dead owner's successor takes over."""

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import psutil
import pyarrow.fs as fs

from marval_ray.files.storage import Storage

LOCK = ".lock"
BEAT = 20.0
"""Seconds between two signs of life."""
SILENCE = 120.0
"""Seconds without one after which an owner on another machine counts as dead."""


@dataclass(frozen=True)
class Owner:
    """A process: `born` tells it from a later one with the same number, `token` from every other."""

    host: str
    pid: int
    born: float
    token: str

    @classmethod
    def myself(cls) -> "Owner":
        return cls(socket.gethostname(), os.getpid(), psutil.Process().create_time(), secrets.token_hex(8))

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    def lives(self, silent: float) -> bool:
        """Tell whether the process is there; of another machine's one knows only for how many seconds it was silent."""
        if self.host != socket.gethostname():
            return silent < SILENCE
        try:
            return abs(psutil.Process(self.pid).create_time() - self.born) < 1
        except psutil.NoSuchProcess:
            return False


@contextmanager
def locked(storage: Storage) -> Iterator[None]:
    """Hold the lock of the run in `storage`.

    Raises ValueError while another process that is alive holds it, OSError when there is no room for it.
    """
    system, root = storage.place()
    path, me = f"{root}/{LOCK}", Owner.myself()
    there = exists(system, root)
    system.create_dir(root, recursive=True)
    ended = threading.Event()
    try:
        take(system, path, me, storage)
        threading.Thread(target=keep, args=(system, path, me, ended), daemon=True).start()
        yield
    finally:
        ended.set()
        if holder(system, path)[0] == me:
            system.delete_file(path)
        if not there and exists(system, root) and not storage.listing():  # refused before there was anything to keep
            system.delete_dir(root)


def exists(system: fs.FileSystem, path: str) -> bool:
    return system.get_file_info(path).type != fs.FileType.NotFound


def take(system: fs.FileSystem, path: str, me: Owner, storage: Storage) -> None:
    """Write the lock, unless somebody holds it. Of two that write at the same time the later one has it."""
    owner, silent = holder(system, path)
    if owner is not None and owner.lives(silent):
        raise ValueError(
            f"{storage} belongs to {owner}, which is at work in it (sign of life {silent:.0f} s ago): wait for its end, stop it, or "
            f"choose another --out; the lock of one that died without a trace on another machine ends after {SILENCE:.0f} s"
        )
    if owner is not None:
        print(f"{storage}: taking over from {owner}, which is no more", flush=True)
    try:
        write(system, path, me)
    except OSError as error:  # pyarrow names no file, and leaves an empty one
        storage.remove([LOCK])
        raise OSError(f"{storage}/{LOCK} cannot be written: {error}") from error
    time.sleep(0.2)
    now, _ = holder(system, path)
    if now != me:
        raise ValueError(f"{storage} belongs to {now}, which began at the same moment: wait for its end, or choose another --out")


def holder(system: fs.FileSystem, path: str) -> tuple[Owner | None, float]:
    """Return (who holds the lock, seconds since the last sign of life); nobody holds one that is not whole."""
    info = system.get_file_info(path)
    if info.type != fs.FileType.File:
        return None, 0.0
    with system.open_input_stream(path) as file:
        text = file.read()
    try:
        return Owner(**json.loads(text)), time.time() - info.mtime.timestamp()
    except (ValueError, TypeError):
        return None, 0.0


def write(system: fs.FileSystem, path: str, me: Owner) -> None:
    with system.open_output_stream(path) as file:
        file.write(json.dumps(asdict(me)).encode())


def beat(system: fs.FileSystem, path: str, me: Owner) -> None:
    """Give a sign of life. A folder's file is only touched: to write it anew would empty it on a full disk."""
    if isinstance(system, fs.LocalFileSystem):
        os.utime(path)
    else:
        write(system, path, me)


def keep(system: fs.FileSystem, path: str, me: Owner, ended: threading.Event) -> None:
    """Give signs of life until `ended`, as long as nobody else took the lock."""
    while not ended.wait(BEAT):
        try:
            if holder(system, path)[0] != me:
                return
            beat(system, path, me)
        except OSError:  # a disk or network that is away for a while: the run itself says so when it matters
            continue
