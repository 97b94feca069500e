"""Runs the project's commands as a user does."""

import io
import os
import runpy
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
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
    """The one line with which a command ends that was used wrongly. It runs in this process, which has all imports."""
    printed, code = _here(*arguments)
    message = printed + (code if isinstance(code, str) else "")  # Python prints a message that it exits with
    assert code, f"{arguments} was not refused"
    (line,) = (line for line in message.splitlines() if line.startswith("error: "))
    return line


def work(*arguments: object) -> str:
    """What a command prints that ends well, in this process: for commands that do not start Ray."""
    printed, code = _here(*arguments)
    assert not code, printed + str(code)
    return printed


def help_of(*arguments: object) -> str:
    """What `--help` prints."""
    printed, code = _here(*arguments, "--help")
    assert not code
    return printed


def _here(script: str, *options: object) -> tuple[str, str | int | None]:
    """(what a script prints, what it exits with)."""
    printed, before = io.StringIO(), sys.argv
    sys.argv = [script, *map(str, options)]
    try:
        with redirect_stderr(printed), redirect_stdout(printed):
            runpy.run_path(str(ROOT / script), run_name="__main__")
    except SystemExit as end:
        return printed.getvalue(), end.code
    finally:
        sys.argv = before
        if "ray" in sys.modules:
            sys.modules["ray"].shutdown()
    return printed.getvalue(), None
