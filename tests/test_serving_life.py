"""The endpoint's life: new students, lost processes, signals."""

import json
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest
import torch
from commands import ROOT
from servers import PATH, READY, Load, Server, begin, free_port, server, wait_until

from marval_ray.embedded import assets_index
from marval_ray.files.fit import save_weights
from marval_ray.files.tensors import read_state

pytestmark = pytest.mark.slow


def followed(folder: Path) -> Path:
    """A run whose newest student is the embedded one."""
    folder.mkdir()
    shutil.copy(assets_index.STUDENT.parent / "config.json", folder)
    shutil.copy(assets_index.STUDENT, folder / "student-gsim.safetensors")
    return folder


def export(run: Path, factor: float) -> None:
    """A new student of `run`, whose weights are the embedded ones times `factor`."""
    state = {name: factor * value.float() for name, value in read_state(assets_index.STUDENT).items()}
    save_weights(run / "student.safetensors", state, torch.float32)


def test_a_new_student_takes_over_without_a_lost_request(tmp_path):
    run = followed(tmp_path / "run")
    with server(tmp_path / "log", "--follow", run, "--poll", 1) as running:
        with Load(running, 8) as load:
            old = running.state()["model_version"]
            wait_until(lambda: len(load.answers) > 50)
            export(run, 1.01)
            wait_until(lambda: running.state()["model_version"] != old)
            new, so_far = running.state()["model_version"], len(load.answers)
            wait_until(lambda: len(load.answers) > so_far + 50)
        (replica,) = running.processes("ServeReplica:marval:Sampler")
        replica.kill()
        wait_until(lambda: running.processes("ServeReplica:marval:Sampler") not in ([], [replica]), 120)
        wait_until(lambda: version(running) == new, 120)
    assert {status for status, _ in load.answers} == {200}
    versions = [version for _, version in load.answers]
    assert set(versions) == {old, new} and versions[-1] == new


def test_nothing_in_a_run_ends_or_blanks_its_server_and_sigterm_finishes_what_is_under_way(tmp_path):
    """Bad students, a run that begins anew, one of another model; then a good one; at last the end, under load."""
    run = followed(tmp_path / "run")
    with server(tmp_path / "log", "--follow", run, "--poll", 1) as running, Load(running, 8) as load:
        old = running.state()["model_version"]
        for spoil, reason in [
            (lambda: export(run, 1e30), "draws blank images"),
            (lambda: export(run, float("nan")), "are NaN or infinite"),
            (lambda: halve(run), "begins with half a student"),
            (lambda: [path.unlink() for path in run.glob("student*")], "student-gsim.safetensors now"),
            (lambda: other_model(run), "another model"),
        ]:
            spoil()
            wait_until(lambda reason=reason: reason in running.state().get("refused", ""))
            assert running.state()["model_version"] == old
        (run / "config.json").write_bytes((assets_index.STUDENT.parent / "config.json").read_bytes())
        export(run, 1.01)
        wait_until(lambda: running.state()["model_version"] != old)
        assert "refused" not in running.state()
        assert {status for status, _ in load.answers} == {200}
        started = psutil.Process(running.pid).children(recursive=True)
        process = psutil.Process(running.pid)
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: process.status() == psutil.STATUS_ZOMBIE, 120)
    assert {status for status, _ in load.answers} == {200, 503, 0}
    log = (tmp_path / "log").read_text(encoding="utf-8")
    assert not still_there(started) and log.rstrip().endswith("ended")
    assert f"serve {running.pid} -- Started <" not in log  # a router in this process, whose thread may call Ray after its end


def halve(run: Path) -> None:
    """In the place of the student, which a replica may have mapped: a shorter file of the same inode would kill it."""
    (run / "half").write_bytes(b"half a student")
    (run / "half").replace(run / "student.safetensors")


def other_model(run: Path) -> None:
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    config["model"]["student_timestep"] = 300
    (run / "config.json").write_text(json.dumps(config))
    export(run, 1.01)


def still_there(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that go on after their parent's end."""
    return psutil.wait_procs(processes, timeout=10)[1]


@pytest.mark.parametrize(
    ("number", "moment"), [(signal.SIGINT, "Started a local Ray instance"), (signal.SIGTERM, "Adding 1 replica")]
)
def test_a_signal_ends_a_server_that_starts(tmp_path, moment, number):
    log = tmp_path / "log"
    process = begin(log, "--port", free_port())
    wait_until(lambda: moment in log.read_text(encoding="utf-8"), 120)
    started = psutil.Process(process.pid).children(recursive=True)
    # A terminal sends Ctrl-C to all of Ray's processes as well.
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    assert process.wait(60) == 128 + number
    assert not any(word in log.read_text(encoding="utf-8") for word in ("Traceback", "stack trace", READY))
    assert not still_there(started)


def test_a_server_without_its_ray_ends_and_leaves_nothing_behind(tmp_path):
    log = tmp_path / "log"
    process = begin(log, "--port", free_port())
    wait_until(lambda: READY in log.read_text(encoding="utf-8"), 120)
    started = psutil.Process(process.pid).children(recursive=True)
    next(one for one in started if one.name() == "gcs_server").kill()
    assert process.wait(120) == 1
    assert log.read_text(encoding="utf-8").splitlines()[-1].startswith("error: a part of Ray")
    assert not still_there(started)


def version(running: Server) -> str | None:
    """The version that is served, None as long as nobody serves."""
    answer = httpx.get(f"{running.address}/healthz", timeout=60)
    return answer.json()["model_version"] if answer.status_code == 200 else None


def test_a_killed_replica_leaves_no_request_hanging(tmp_path):
    with server(tmp_path / "log") as running, Load(running, 8) as load:
        for role in ("Sampler", "Api"):
            so_far = len(load.answers)
            wait_until(lambda so_far=so_far: len(load.answers) > so_far + 50)
            (replica,) = running.processes(f"ServeReplica:marval:{role}")
            so_far = len(load.answers)
            replica.kill()
            wait_until(lambda so_far=so_far: any(status != 200 for status, _ in load.answers[so_far:]))
            so_far = len(load.answers)
            wait_until(lambda so_far=so_far: [status for status, _ in load.answers[so_far:]].count(200) > 50, 120)
    assert {status for status, _ in load.answers} == {200, 503}


def test_a_key_is_asked_for_and_beyond_the_queue_limit_clients_are_told_to_come_back(tmp_path):
    key = {"authorization": "Bearer secret"}
    options = ("--batch", 2, "--queue", 4)
    with server(tmp_path / "log", *options, env={"MARVAL_API_KEY": "secret"}) as running, ThreadPoolExecutor(40) as pool:
        url, body = f"{running.address}{PATH}", {"class": 1, "steps": 64}
        assert httpx.post(url, json=body, timeout=60).status_code == 401
        assert "secret" not in json.dumps(httpx.get(f"{running.address}/v1/models").json())
        answers = list(pool.map(lambda _: httpx.post(url, json=body, headers=key, timeout=60), range(40)))
    assert {answer.status_code for answer in answers} == {200, 503}
    assert all(answer.headers["retry-after"] == "1" for answer in answers if answer.status_code == 503)


def answers(running: Server) -> bool:
    try:
        return httpx.get(f"{running.address}/healthz", timeout=60).status_code == 200
    except httpx.TransportError:
        return False


def test_the_shipped_config_file_serves(tmp_path):
    port = free_port()
    config = tmp_path / "serve.yaml"
    config.write_text((ROOT / "jobs/serve.yaml").read_text(encoding="utf-8").replace("8000", str(port)))
    with (tmp_path / "log").open("w") as log:
        command = [Path(sys.executable).with_name("serve"), "run", config]
        heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # tests in the background ignore it, and so would their children
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True, preexec_fn=heard)
    try:
        running = Server(f"http://127.0.0.1:{port}", process.pid)
        wait_until(lambda: answers(running), 120)
        assert httpx.post(f"{running.address}{PATH}", json={"class": "bag", "steps": 2}, timeout=60).status_code == 200
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
