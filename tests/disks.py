"""Disks that are full, read-only or go away: mounted for a test, which needs root."""

import os
import subprocess
from contextlib import contextmanager

import pytest

MOUNTS = pytest.mark.skipif(
    os.geteuid() != 0 or subprocess.run(["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], check=False).returncode != 0,
    reason="NO TEST OF FULL AND VANISHED DISKS: may not mount",
)


@contextmanager
def mounted(*what: object):
    """The last of `what` is where; it is taken away even when it is in use."""
    where = what[-1]
    where.mkdir(exist_ok=True)
    subprocess.run(["mount", *map(str, what)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", where], check=True)
