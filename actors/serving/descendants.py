"""Processes that this one started, and those that they started: none outlives it."""

import atexit
import ctypes
import sys
from contextlib import suppress

import psutil

PR_SET_CHILD_SUBREAPER = 36


def end_them_at_exit() -> None:
    """Kill what is left when Python exits; call it before others, whose exit handlers then come first.

    Ray's agents wait for a control store that is gone, for a minute or for ever, and are orphans by then: on Linux they
    become this process's own children.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    atexit.register(end_them)


def end_them() -> None:
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            process.kill()


def lost(name: str) -> bool:
    """Tell whether a child of that name was started and has ended."""
    states = [child.status() for child in psutil.Process().children() if child.name().startswith(name)]
    return psutil.STATUS_ZOMBIE in states
