"""Runs the project's commands as a user does."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run(*arguments: object, env: dict[str, str] | None = None, timeout: float = 300) -> subprocess.CompletedProcess:
    """`python ARGUMENTS` in the project's folder."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | (env or {}), timeout=timeout, capture_output=True, text=True, check=False
    )


def succeed(*arguments: object, env: dict[str, str] | None = None) -> str:
    """Standard output of a command that ends with 0."""
    done = run(*arguments, env=env)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def refuse(*arguments: object) -> str:
    """The one line with which a command ends that was used wrongly."""
    done = run(*arguments)
    assert done.returncode != 0 and "Traceback" not in done.stderr, done.stderr[-3000:]
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    return line
