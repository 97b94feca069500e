"""Runs the project's commands as a user does."""

import io
import os
import runpy
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).parent.parent


def run(*arguments: object, env: dict[str, str] | None = None, timeout: float = 300) -> subprocess.CompletedProcess:
    """`python ARGUMENTS` in the project's folder."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | (env or {}), timeout=timeout, capture_output=True, text=True, check=False
    )


def succeed(*arguments: object, env: dict[str, str] | None = None) -> str:
    """Standard output of a command that ends well. It runs in this process, which has all imports; Ray's are its own."""
    return outputs(*arguments, env=env)[0]


def outputs(*arguments: object, env: dict[str, str] | None = None) -> tuple[str, str]:
    """Standard output and standard error of a command that ends well, in this process."""
    with patch.dict(os.environ, env or {}):
        out, err, code = _here(*arguments)
    assert not code, out[-3000:] + err[-3000:] + str(code)
    return out, err


def refuse(*arguments: object) -> str:
    """The one line with which a command ends that was used wrongly, in this process."""
    out, err, code = _here(*arguments)
    assert code, f"{arguments} was not refused"
    message = out + err + (code if isinstance(code, str) else "")  # Python prints a message that it exits with
    (line,) = (line for line in message.splitlines() if line.startswith("error: "))
    return line


@cache
def help_of(*arguments: object) -> str:
    """What `--help` prints."""
    return succeed(*arguments, "--help")


def _here(script: str, *options: object) -> tuple[str, str, str | int | None]:
    """(standard output, standard error, what a script exits with)."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    path = [str((ROOT / script).parent), *sys.path]  # as `python SCRIPT` has it
    sys.argv = [script, *map(str, options)]
    try:
        # A job may set variables for its Ray.
        with redirect_stdout(out), redirect_stderr(err), patch.dict(os.environ), patch.object(sys, "path", path):
            runpy.run_path(str(ROOT / script), run_name="__main__")
    except SystemExit as end:
        return out.getvalue(), err.getvalue(), end.code
    finally:
        sys.argv = before
        if "ray" in sys.modules:
            sys.modules["ray"].shutdown()
    return out.getvalue(), err.getvalue(), None
