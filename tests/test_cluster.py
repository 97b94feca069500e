"""`ray up` with cluster.local.yaml on three hosts, jobs across them, and hosts that fail. Run by `make test-cluster`."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from commands import ROOT, succeed
from hosts import MISSING, NETWORK, TOKEN, Host, hosts, possible
from servers import free_port, wait_until
from small import write_inception

from marval_ray.embedded import assets_index
from marval_ray.files.tensors import read_state

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(
        not possible(), reason=f"NO CLUSTER TEST: needs root, network namespaces, mounts; missing tools: {', '.join(MISSING) or 'none'}"
    ),
]
RAY = Path(sys.executable).with_name("ray")
JOB = (
    "jobs/distill.py", "--learner.steps", "2", "--learner.batch", "8", "--learner.cpus-per-worker", "1",
    "--figures.teacher", "None", "--figures.samples", "20", "--figures.loops", "2", "--figures.per-class", "1",
    "--figures.sampler.steps", "2",
    "--rl-learner.steps", "24", "--rl-learner.batch", "8", "--rl.chunk", "4", "--rl.loops", "4", "--rl-learner.checkpoint-every", "4",
    "--guard.every", "12", "--guard.samples", "20", "--guard.patience", "9", "--rl.rollout.count", "2", "--rl.reward.count", "2",
    "--rl.rollout.threads", "1", "--rl.reward.threads", "1",  # the three hosts share this machine's cores
    "--learner.node", "learner", "--rl-learner.node", "learner", "--rl.rollout.node", "rollout", "--rl.reward.node", "reward",
    "--rl.judge.node", "reward",
)  # fmt: skip


class Cluster:
    """Up on `machines`, the first of which is the head."""

    def __init__(self, folder: Path, machines: list[Host]):
        self.folder, self.machines, self.config = folder, machines, folder / "cluster.yaml"
        self.port = free_port()
        without_address = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        self.env = without_address | {"HOME": str(folder / "client"), "RAY_AUTH_MODE": "token", "RAY_worker_niceness": "0"}
        token = folder / "client/.ray/auth_token"
        token.parent.mkdir(parents=True)
        token.write_text(TOKEN, encoding="utf-8")
        config = yaml.safe_load((ROOT / "cluster.local.yaml").read_text(encoding="utf-8"))
        head, *workers = [machine.address for machine in machines]
        config["provider"] |= {"head_ip": head, "worker_ips": workers}
        config["auth"] = {"ssh_user": "root", "ssh_private_key": str(folder / "key")}
        config["file_mounts"].pop("~/marval_ray")  # there already
        self.config.write_text(yaml.safe_dump(config), encoding="utf-8")

    def ray(self, *arguments: object, timeout: float = 300) -> str:
        command = [str(part) for part in (RAY, *arguments)]
        done = subprocess.run(command, env=self.env, cwd=ROOT, timeout=timeout, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def submit(self, name: str, *job: object) -> None:
        """Start a job, which writes into a file or folder of that name."""
        self.ray(
            "job", "submit", "--address", f"http://127.0.0.1:{self.port}", "--submission-id", name, "--no-wait", "--working-dir", ".",
            "--", "python", *job, "--out", self.folder / name,
        )  # fmt: skip

    def wait_for(self, name: str, updates: int) -> None:
        """Until its RL has done so many updates."""
        metrics = self.folder / name / "metrics-rl.jsonl"
        wait_until(lambda: metrics.exists() and len(metrics.read_text(encoding="utf-8").splitlines()) >= updates, 600)

    def written(self, name: str) -> Path:
        """What the job wrote, when it has ended well."""
        address = ("--address", f"http://127.0.0.1:{self.port}")
        end = time.monotonic() + 900
        while (status := self.ray("job", "status", *address, name)) and f"'{name}' succeeded" not in status:
            assert f"'{name}' failed" not in status and time.monotonic() < end, self.ray("job", "logs", *address, name)[-5000:]
            time.sleep(3)
        return self.folder / name

    def result(self, name: str) -> dict[str, np.ndarray]:
        """The student, when the job has ended well."""
        return {key: value.numpy() for key, value in read_state(self.written(name) / "student.safetensors").items()}

    def at_work(self, title: str) -> int:
        """How many machines have a process with that in its title."""
        return sum(bool(machine.processes(title)) for machine in self.machines)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster")
    with hosts(folder, [{"learner": 1}, {"rollout": 1}, {"reward": 1}]) as machines:
        cluster = Cluster(folder, machines)
        cluster.ray("up", "-y", "--no-config-cache", cluster.config)
        tunnel = subprocess.Popen(
            ["ssh", "-N", "-i", folder / "key", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
             "-L", f"{cluster.port}:127.0.0.1:8265", f"root@{NETWORK}.10"],
        )  # fmt: skip
        try:
            wait_until(lambda: all(machine.processes("raylet") for machine in machines), 180)
            time.sleep(10)
            yield cluster
        finally:
            tunnel.terminate()
            tunnel.wait(10)


@pytest.fixture(scope="module")
def undisturbed(cluster):
    cluster.submit("undisturbed", *JOB)
    cluster.wait_for("undisturbed", 2)
    assert cluster.machines[0].processes("TrainWorker") and not cluster.machines[1].processes("TrainWorker")
    assert len(cluster.machines[1].processes("ray::RolloutWorker")) == 2
    assert len(cluster.machines[2].processes("ray::RewardWorker")) == 2
    return cluster.result("undisturbed")


def equal(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def again(cluster: Cluster) -> tuple[object, ...]:
    """Options for the second stage of the undisturbed job."""
    return "--stages", "rl", "--student", cluster.folder / "undisturbed/student-gsim.safetensors"


def test_a_host_that_was_cut_off_for_a_while(cluster, undisturbed):
    """For so short a time that Ray waits for it, and so long that Ray gives it up and starts it again."""
    cluster.submit("cut", *JOB, *again(cluster))
    for updates, seconds in ((3, 8), (12, 60)):
        cluster.wait_for("cut", updates)
        with cluster.machines[1].unplugged():
            time.sleep(seconds)
    assert equal(cluster.result("cut"), undisturbed)


def test_killed_learners_and_workers(cluster, undisturbed):
    cluster.submit("killed", *JOB, *again(cluster))
    for updates, machine, title in ((3, 0, "TrainWorker"), (9, 1, "ray::RolloutWorker"), (15, 2, "ray::RewardWorker")):
        cluster.wait_for("killed", updates)
        for process in cluster.machines[machine].processes(title):
            process.kill()
    assert equal(cluster.result("killed"), undisturbed)


def test_latents_of_several_hosts_are_those_of_one(cluster, tmp_path):
    pq.write_table(pq.read_table(assets_index.IMAGES).slice(0, 60), tmp_path / "images.parquet")
    encode = ("jobs/encode.py", "--images", tmp_path / "images.parquet", "--batch", 4)
    cluster.submit("latents.parquet", *encode, "--workers", 3)
    wait_until(lambda: cluster.at_work("MapBatches(Encoder)") > 1, 120)
    succeed(*encode, "--out", tmp_path / "one.parquet")
    assert pq.read_table(cluster.written("latents.parquet")).equals(pq.read_table(tmp_path / "one.parquet"), check_metadata=True)


def test_figures_of_images_that_several_hosts_draw_are_those_of_one(cluster, tmp_path):
    np.savez(tmp_path / "moments.npz", mu=np.zeros(2048), sigma=np.eye(2048), mu_s=np.zeros(2023), sigma_s=np.eye(2023))
    fid = (
        "jobs/fid.py", "--inception", write_inception(tmp_path / "inception.pth"), "--reference", tmp_path / "moments.npz",
        "--labels", "0-9", "--per-label", 3, "--n-ar", 2, "--chunk", 5, "--rewards", "pickscore:embedded/reward",
    )  # fmt: skip
    cluster.submit("fid", *fid, "--workers.count", 3, "--workers.cpus", os.cpu_count())  # one on each host
    wait_until(lambda: cluster.at_work("ray::FeatureWorker") == 3, 120)
    succeed(*fid, "--out", tmp_path / "one")
    many, one = (json.loads((out / "figures.json").read_text()) for out in (cluster.written("fid"), tmp_path / "one"))
    assert many.pop("model") == one.pop("model") and many.pop("reference") == one.pop("reference")
    assert many == pytest.approx(one, rel=1e-6)  # how sums are rounded depends on the threads of whoever adds up
