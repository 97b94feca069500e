"""One run in one place at a time."""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace

import pytest

from marval_ray.files.storage import Storage
from marval_ray.runs import lock
from marval_ray.runs.lock import LOCK, SILENCE, Owner, locked

HOLDER = """
import sys, time
from marval_ray.runs.lock import locked
from marval_ray.files.storage import Storage
with locked(Storage.of(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def write_lock(folder, owner: Owner, silent: float = 0.0) -> None:
    path = folder / LOCK
    path.write_text(json.dumps(asdict(owner)), encoding="utf-8")
    os.utime(path, (time.time() - silent,) * 2)


def test_a_place_that_is_at_work_is_refused_and_one_whose_owner_was_killed_is_taken_over(tmp_path, capsys):
    run = Storage.of(str(tmp_path / "run"))
    with subprocess.Popen([sys.executable, "-c", HOLDER, run.folder], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=f"belongs to process {other.pid} on .* choose another --out"), locked(run):
            pass
        other.kill()
    with locked(run):
        assert (run.folder / LOCK).exists()
    assert f"taking over from process {other.pid}" in capsys.readouterr().out
    assert not (run.folder / LOCK).exists()


def test_a_lock_of_another_machine_ends_with_its_signs_of_life(tmp_path):
    elsewhere = replace(Owner.myself(), host="elsewhere")
    write_lock(tmp_path, elsewhere, silent=SILENCE / 2)
    with pytest.raises(ValueError, match="on elsewhere, which is at work in it"), locked(Storage.of(str(tmp_path))):
        pass
    write_lock(tmp_path, elsewhere, silent=2 * SILENCE)
    with locked(Storage.of(str(tmp_path))):
        pass


def test_a_sign_of_life_is_no_new_file(tmp_path, monkeypatch):
    """One that is written anew is empty on a full disk, and then nobody holds the lock."""
    monkeypatch.setattr(lock, "BEAT", 0.01)
    with locked(Storage.of(str(tmp_path))):
        monkeypatch.setattr(lock, "write", lambda *_: pytest.fail("written anew"))
        os.utime(tmp_path / LOCK, (0, 0))
        deadline = time.monotonic() + 10
        while not (tmp_path / LOCK).stat().st_mtime and time.monotonic() < deadline:
            time.sleep(0.01)
        assert time.time() - (tmp_path / LOCK).stat().st_mtime < 10


def test_a_later_process_with_the_same_number_is_another_one(tmp_path):
    write_lock(tmp_path, replace(Owner.myself(), born=1.0, token="other"))
    with locked(Storage.of(str(tmp_path))):
        pass


def test_a_lock_that_is_half_written_counts_for_nothing(tmp_path):
    (tmp_path / LOCK).write_text('{"host": "else', encoding="utf-8")
    with locked(Storage.of(str(tmp_path))):
        pass


def test_a_run_that_is_refused_leaves_no_folder_behind(tmp_path):
    with pytest.raises(ValueError, match="refused"), locked(Storage.of(str(tmp_path / "run"))):
        raise ValueError("refused")
    assert not (tmp_path / "run").exists()
