"""The main job on a running cluster: submitted, and against RAY_ADDRESS; with and without token authentication."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from commands import ROOT, run
from servers import free_port
from short import DISTILL, SHORT

BIN = Path(sys.executable).parent
RAY = BIN / "ray"
pytestmark = pytest.mark.slow


def wait_for(url: str, token: str, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"}), timeout=5)
            return
        except OSError:
            assert time.monotonic() < end, f"{url} does not answer"
            time.sleep(1)


def submitted(command: list[str], env: dict[str, str], seconds: float = 90) -> subprocess.CompletedProcess:
    """Run `ray job submit`; a head whose dashboard answers may have no agent yet that takes jobs."""
    end = time.monotonic() + seconds
    while True:
        done = subprocess.run(command, cwd=ROOT, env=env, timeout=300, capture_output=True, text=True, check=False)
        if "No available agent" not in done.stderr or time.monotonic() > end:
            return done
        time.sleep(2)


@pytest.fixture(params=["token", "disabled"], scope="module")
def cluster(request, tmp_path_factory):
    """(environment of a client, address of the dashboard) of a head node of its own, whose user has a home of its own."""
    home = tmp_path_factory.mktemp("home")
    token = "0123456789abcdef" * 4
    port, dashboard = free_port(), free_port()
    auth = {"RAY_AUTH_MODE": request.param} | ({"RAY_AUTH_TOKEN": token} if request.param == "token" else {})
    # The variable is what before_ray() set for the tests; a user's `ray start` and job do not have it.
    env = auth | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1", "PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(home)}
    command = [
        RAY, "start", "--head", "--block", f"--port={port}", f"--dashboard-port={dashboard}", "--num-cpus=2",
        "--dashboard-host=127.0.0.1", "--disable-usage-stats", f"--temp-dir=/tmp/marval-{port}",
        # The agent that takes jobs has one port by default, which another Ray on this machine may hold.
        f"--dashboard-agent-listen-port={free_port()}",
    ]  # fmt: skip
    with open(home / "head.log", "w", encoding="utf-8") as log:
        head = subprocess.Popen(command, env=os.environ | env, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(f"http://127.0.0.1:{dashboard}/api/version", token)
        yield env | {"RAY_ADDRESS": f"127.0.0.1:{port}"}, f"http://127.0.0.1:{dashboard}"
    finally:
        head.send_signal(signal.SIGTERM)
        head.wait(60)


def test_the_job_runs_on_a_cluster(cluster):
    env, dashboard = cluster
    submit = [
        str(RAY), "job", "submit", "--address", dashboard, "--working-dir", ".", "--", "python", DISTILL,
        "--learner.steps", "2", *map(str, SHORT),
    ]  # fmt: skip
    without_address = {name: value for name, value in (os.environ | env).items() if name != "RAY_ADDRESS"}
    done = submitted([*submit, "--out", "runs/submitted"], without_address)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    # Ray deletes the job's working directory, so the run is in the home of the user that the cluster runs as.
    assert Path(env["HOME"], "runs", "submitted", "report.html").exists()
    if env["RAY_AUTH_MODE"] == "disabled":
        return  # what a job prints comes back alike
    failed = subprocess.run(
        [*submit, "--out", "runs/submitted"], cwd=ROOT, env=without_address, timeout=300, capture_output=True, text=True
    )
    assert failed.returncode != 0 and "holds a finished run" in failed.stdout


def test_the_job_connects_to_a_cluster(cluster, tmp_path):
    env, _ = cluster
    done = run(DISTILL, "--learner.steps", 2, *SHORT, "--out", tmp_path / "connected", env=env)
    assert done.returncode == 0 and (tmp_path / "connected" / "report.html").exists(), done.stdout[-3000:] + done.stderr[-3000:]


def test_a_client_without_the_token_is_turned_away(cluster):
    env, dashboard = cluster
    if env["RAY_AUTH_MODE"] == "disabled":
        urllib.request.urlopen(f"{dashboard}/api/jobs/", timeout=10)
    else:
        with pytest.raises(urllib.error.HTTPError, match="401|403"):
            urllib.request.urlopen(f"{dashboard}/api/jobs/", timeout=10)
