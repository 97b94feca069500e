"""What a job does for Ray's safety before it imports it."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT

CODE = "import os; os.umask(0); from marval_ray.environment import before_ray; before_ray()"


def start(home: Path, **env: str) -> subprocess.CompletedProcess:
    """A job begins for whom this is home; umask lets everybody read what it writes."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env = plain | {"HOME": str(home), "RAY_ADDRESS": "local"} | env
    return subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, env=env, timeout=60, capture_output=True, text=True, check=False)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_token_is_made_for_its_owner_alone(tmp_path):
    tokens = []
    for home in (tmp_path / "one", tmp_path / "other"):
        done = start(home)
        assert (done.returncode, done.stderr) == (0, "")
        assert mode(home / ".ray/auth_token") == 0o600
        tokens.append((home / ".ray/auth_token").read_text(encoding="utf-8"))
    assert len(tokens[0]) == 64 and tokens[0] != tokens[1]


@pytest.mark.parametrize("readable", [0o644, 0o640, 0o604, 0o666])
def test_a_token_that_others_can_read_is_taken_from_them(tmp_path, readable):
    token = tmp_path / ".ray/auth_token"
    token.parent.mkdir()
    token.write_text("0" * 64, encoding="utf-8")
    token.chmod(readable)
    done = start(tmp_path)
    assert done.returncode == 0 and mode(token) == 0o600 and token.read_text(encoding="utf-8") == "0" * 64
    (line,) = done.stderr.splitlines()
    assert "others could read Ray's token" in line
    assert start(tmp_path).stderr == ""


def test_the_named_file_counts_and_is_never_made(tmp_path):
    token = tmp_path / "mine"
    token.write_text("0" * 64, encoding="utf-8")
    token.chmod(0o644)
    assert "others could read" in start(tmp_path, RAY_AUTH_TOKEN_PATH=str(token)).stderr
    assert mode(token) == 0o600
    assert start(tmp_path, RAY_AUTH_TOKEN_PATH=str(tmp_path / "none")).returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_no_token_is_made_that_ray_would_not_make(tmp_path):
    for env in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "0" * 64}, {"RAY_ADDRESS": "10.0.0.1:6379"}):
        assert start(tmp_path, **env).returncode == 0
    assert not any(tmp_path.iterdir())


def test_what_cannot_be_mended_ends_the_job_with_one_line(tmp_path):
    foreign = Path("/etc/passwd")
    if os.getuid() == 0:
        foreign = tmp_path / "foreign"
        foreign.touch()
        os.chown(foreign, 12345, -1)
    (tmp_path / "file").touch()
    for done, sentence in [
        (start(tmp_path, RAY_AUTH_TOKEN_PATH=str(foreign)), "belongs to user"),
        (start(tmp_path, RAY_AUTH_TOKEN_PATH=str(tmp_path)), "is not a file"),
        (start(tmp_path / "file"), "set HOME"),
    ]:
        (line,) = done.stderr.splitlines()
        assert done.returncode == 1 and line.startswith("error: ") and sentence in line
