"""Runs in a bucket of a local S3 server, and on storage that is full, read-only or goes away."""

import json
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow.fs as fs
import pyarrow.parquet as pq
import pytest
import torch
from commands import ROOT, outputs, refuse, run, succeed
from disks import MOUNTS, mounted
from servers import free_port, wait_until
from short import DISTILL, OUTPUTS, QUICK, QUICK_RL, SHORT

from marval_ray.embedded import assets_index
from marval_ray.files.encoded_parts import Parts
from marval_ray.files.fit import save_weights
from marval_ray.files.latent_files import write_latents
from marval_ray.files.storage import Storage
from marval_ray.files.tensors import read_state
from marval_ray.runs.folder import RECORDS
from marval_ray.runs.lock import locked
from marval_ray.runs.stage import read_metrics

NAMES = ("metrics.jsonl", "tensorboard")


@pytest.fixture(scope="module")
def bucket():
    """A function from the name of a run to its URI."""
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
    port = free_port()
    server = subprocess.Popen(
        [Path(sys.executable).with_name("moto_server"), "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    with pytest.MonkeyPatch.context() as patch:
        for name, value in keys.items():
            patch.setenv(name, value)
        system = fs.S3FileSystem(endpoint_override=f"127.0.0.1:{port}", scheme="http", allow_bucket_creation=True)
        try:
            wait_until(lambda: created(system), 60)
            yield lambda name: f"s3://runs/{name}?scheme=http&endpoint_override=127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(20)


def created(system: fs.FileSystem) -> bool:
    try:
        system.create_dir("runs")
    except OSError:  # not up yet
        return False
    return True


def test_a_working_copy_and_its_bucket(bucket):
    here, elsewhere = Storage.of(bucket("a/b")), Storage.of(bucket("a/b"), "status")
    here.pull(*RECORDS)
    assert here.listing() == [] and str(here) == "s3://runs/a/b" and here.folder != elsewhere.folder
    (here.folder / "tensorboard").mkdir()
    for name in (*NAMES, "run.json", "last-gsim"):
        (here.folder / name / "events" if name == "tensorboard" else here.folder / name).write_text(name, encoding="utf-8")
    here.push("run.json")
    assert here.listing() == ["run.json"]
    here.push()
    assert here.listing() == sorted(["run.json", *NAMES]) and here.listing("tensorboard") == ["events"]
    elsewhere.pull(*RECORDS)
    assert {path.name for path in elsewhere.folder.iterdir()} == {"metrics.jsonl", "run.json"}
    here.remove([*NAMES, "absent"])
    assert here.listing() == ["run.json"] and not (here.folder / "metrics.jsonl").exists()


def test_a_folder_is_its_own_copy(tmp_path):
    storage = Storage.of(str(tmp_path))
    (tmp_path / "run.json").write_text("{}", encoding="utf-8")
    storage.pull(*RECORDS)
    storage.push()
    assert storage.folder == tmp_path and storage.listing() == ["run.json"] and storage.checkpoints == str(tmp_path)


def test_places_that_are_none(bucket):
    assert "is no place for a run" in refuse(DISTILL, "--out", "ftp://host/run")
    assert "holds no run to resume" in refuse(DISTILL, "--out", bucket("absent"), "--resume")
    assert "s3://runs/absent holds no run" in refuse("jobs/status.py", bucket("absent"))


@pytest.mark.slow
def test_both_stages_in_a_bucket_beside_another_ray_and_more_of_the_second_on_a_machine_that_never_saw_them(bucket):
    held_out = ("--rl.held-out-rewards", "pickscore:embedded/reward", "plugin:small_reward:Darkness")
    both = (DISTILL, "--out", bucket("both"), *QUICK, *QUICK_RL, *held_out, "--learner.steps", 2)
    env = {"PYTHONPATH": str(ROOT / "tests")}
    with another_ray():
        printed = "".join(outputs(*both, "--rl-learner.steps", 2, env=env))
    assert "Traceback" not in printed and "multiple active Ray instances" not in printed, printed[-5000:]
    here, there = Storage.of(bucket("both")), Storage.of(bucket("both"), "test")
    check_both_stages(here.folder)
    assert {"student.safetensors", "student-gsim.safetensors", "report.html", "train", "train-rl", "tensorboard"} <= set(there.listing())
    assert {"model_index.json", "config.json", "README.md"} <= set(there.listing())
    assert there.listing("codec") == sorted(path.name for path in assets_index.VAE.iterdir()) and not (here.folder / "codec").exists()
    assert "holds a finished run" in refuse(*both)
    shutil.rmtree(here.folder)
    succeed(*both, "--rl-learner.steps", 3, "--resume", env=env)
    there.pull(*RECORDS)
    assert [row["step"] for row in read_metrics(there.folder / "metrics-rl.jsonl")] == [1, 2, 3]
    assert json.loads((there.folder / "summary.json").read_text(encoding="utf-8"))["rl_updates"] == 3
    shown = succeed("jobs/status.py", bucket("both"))
    assert "finished" in shown and "rl: update 3 of 3" in shown and "checkpoint_" in shown


@contextmanager
def another_ray():
    """A Ray of somebody else on this machine."""
    command = [sys.executable, "-c", "import ray; ray.init('local'); print('there', flush=True); input()"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout.readline() == "there\n"
    try:
        yield
    finally:
        process.communicate("\n", timeout=60)


def check_both_stages(folder: Path) -> None:
    """A run of both stages wrote what people look at."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    scores = {f"student_{key}{when}" for key in ("fd", "accuracy", "diversity") for when in ("_before_rl", "")}
    assert {"student_fd_before", "reward_before", "reward_after"} | scores <= summary.keys()
    assert summary["rl_updates"] == 2
    for name in ("held_out_pickscore", "held_out_darkness"):
        assert summary[f"{name}_before_std"] > 0 and summary[f"{name}_before"] != summary[f"{name}_after"]
    assert summary["held_out_darkness_before"] == pytest.approx(-summary["reward_before"], abs=1e-4)  # of the same images
    assert summary["student_n_ar"] == 2  # rl.loops
    assert [path.name for path in sorted((folder / "looks").iterdir())] == ["000000.png", "000001.png", "000002.png"]
    assert summary["student_fd_se"] > 0
    pictures = {"rl.png", "looks.png", "metrics-rl.jsonl", "student_before_RL.png", "student_after_RL.png"}
    assert (OUTPUTS - {"student_after.png", "codec"}) | pictures <= {path.name for path in folder.iterdir()}


@pytest.mark.slow
@MOUNTS
def test_a_full_disk_loses_nothing_and_the_run_goes_on_when_there_is_room(run_folder, tmp_path):
    disk = tmp_path / "disk"
    with mounted("-t", "tmpfs", "-o", "size=1g", "tmpfs", disk):
        out = shutil.copytree(run_folder, disk / "run")
        command = (DISTILL, "--out", out, *SHORT, "--learner.checkpoint-every", 1, "--resume")
        before, saved = read_state(out / "student.safetensors"), checkpoints(out)
        free = shutil.disk_usage(disk).free
        (disk / "filler").write_bytes(bytes(free - 500_000))
        done = run(*command, "--learner.steps", 6)
        assert done.returncode == 1 and "No space left on device" in last_error(done.stderr), done.stderr[-3000:]
        assert saved <= checkpoints(out)
        after = read_state(out / "student.safetensors")
        assert all((before[name] == after[name]).all() for name in before)
        (disk / "filler").unlink()
        succeed(*command, "--learner.steps", 6)
        assert steps(out) == [1, 2, 3, 4, 5, 6]


@MOUNTS
def test_files_for_which_there_is_no_room_are_named(tmp_path):
    """Whatever library writes them."""
    disk = tmp_path / "disk"
    with mounted("-t", "tmpfs", "-o", "size=100k", "tmpfs", disk):
        with pytest.raises(OSError, match="disk/a.safetensors cannot be written: .*No space left on device"):
            save_weights(disk / "a.safetensors", {"a": torch.ones(100_000)}, torch.float32)
        with pytest.raises(OSError, match="disk/a.parquet cannot be written: .*No space left on device"):
            write_latents(disk / "a.parquet", np.random.rand(200, 4, 16, 16), np.ones((200, 4, 16, 16)), np.zeros(200, int))
        assert list(disk.iterdir()) == []
        (disk / "filler").write_bytes(bytes(100 * 1024))
        run = Storage.of(str(disk / "run"))
        with pytest.raises(OSError, match="disk/run/.lock cannot be written: .*No space left on device"), locked(run):
            pass
        assert list(disk.iterdir()) == [disk / "filler"]


@pytest.mark.slow
@MOUNTS
def test_an_encoding_on_a_full_disk_goes_on_when_there_is_room(tmp_path):
    disk, out = tmp_path / "disk", tmp_path / "disk" / "latents.parquet"
    command = ("jobs/encode.py", "--images", assets_index.IMAGES, "--out", out)
    with mounted("-t", "tmpfs", "-o", "size=6m", "tmpfs", disk):  # one part of 4,096 images has room, two have none
        message = refuse(*command)
        assert f"{Parts.of(out).folder}/000000008000.parquet cannot be written: " in message and "No space left on device" in message
        assert [path.name for path in Parts.of(out).folder.iterdir()] == ["000000004096.parquet"]
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        assert "8,000 latents of 8,000 images" in succeed(*command, "--resume")
        assert pq.read_metadata(out).num_rows == 8000


@pytest.mark.slow
@MOUNTS
def test_a_read_only_disk_is_refused(tmp_path):
    disk = tmp_path / "disk"
    with mounted("-t", "tmpfs", "-o", "ro", "tmpfs", disk):
        done = run(DISTILL, "--out", disk / "run", *SHORT)
    assert done.returncode == 1 and "Read-only file system" in last_error(done.stderr), done.stderr[-3000:]


@pytest.mark.slow
@MOUNTS
def test_a_disk_that_vanishes_ends_the_run_with_a_reason(tmp_path):
    real, disk = tmp_path / "real", tmp_path / "disk"
    real.mkdir()
    out = disk / "run"
    command = list(map(str, (sys.executable, DISTILL, "--out", out, *SHORT)))
    with mounted("--bind", real, disk), (tmp_path / "log").open("w", encoding="utf-8") as log:
        job = subprocess.Popen([*command, "--learner.steps", "2000"], cwd=ROOT, stdout=log, stderr=log)
        wait_until(lambda: job.poll() is not None or (out / "metrics.jsonl").exists() and len(steps(out)) > 5, 200)
    assert job.wait(200) == 1, (tmp_path / "log").read_text(encoding="utf-8")[-3000:]
    message = last_error((tmp_path / "log").read_text(encoding="utf-8"))
    assert "--resume" in message and str(disk) in message
    with mounted("--bind", real, disk):
        done = len(steps(out))
        succeed(*command[1:], "--learner.steps", done + 2, "--resume")
        assert steps(out) == list(range(1, done + 3))


def checkpoints(out: Path) -> set[str]:
    """Files of the last checkpoint, with their sizes."""
    last = max((out / "train").glob("checkpoint_*"))
    return {f"{path.relative_to(out)} {path.stat().st_size}" for path in last.rglob("*") if path.is_file()}


def steps(out: Path) -> list[int]:
    """Of the updates on record."""
    return [int(row["step"]) for row in read_metrics(out / "metrics.jsonl")]


def last_error(text: str) -> str:
    """The line, which may follow what is left of a progress bar."""
    return text[text.rindex("error: ") :].splitlines()[0]
