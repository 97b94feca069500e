"""Hosts for tests of clusters, on one machine: network namespaces on a bridge, each with an address, processes, /dev/shm, /tmp/ray,
home folder and sshd of its own. Needs root, iproute2, openssh-server and rsync."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from commands import ROOT
from servers import title_of

BRIDGE, NETWORK = "marval0", "10.77.0"
SSHD = "/usr/sbin/sshd"
TOKEN = "0123456789abcdef" * 4
MISSING = [tool for tool in ("ip", "tc", "ssh", "rsync", "unshare", SSHD) if shutil.which(tool) is None]


def possible() -> bool:
    """Whether this process may make network namespaces and mount things in them."""
    if os.geteuid() != 0 or MISSING:
        return False
    probe = "ip netns add marval-probe && ip netns exec marval-probe unshare --mount mount -t tmpfs tmpfs /mnt"
    done = subprocess.run(["sh", "-c", f"{probe}; result=$?; ip netns del marval-probe; exit $result"], capture_output=True, check=False)
    return done.returncode == 0


@dataclass(frozen=True)
class Host:
    name: str
    address: str
    pid: int

    @property
    def link(self) -> str:
        """The bridge's end of its cable."""
        return f"{self.name}v"

    @contextmanager
    def unplugged(self) -> Iterator[None]:
        call("ip", "link", "set", self.link, "down")
        try:
            yield
        finally:
            call("ip", "link", "set", self.link, "up")

    def processes(self, title: str) -> list[psutil.Process]:
        """Its processes with that in their title."""
        return [p for p in psutil.Process(self.pid).children(recursive=True) if title in title_of(p)]


def call(*command: object) -> None:
    subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True)


@contextmanager
def hosts(folder: Path, resources: list[dict[str, int]]) -> Iterator[list[Host]]:
    """One host for each of `resources`, Ray's custom resources of it, with the delay and bandwidth of a 1 GbE network."""
    call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "key")
    Path("/run/sshd").mkdir(exist_ok=True)
    with ExitStack() as stack:
        stack.enter_context(bridge())
        yield [stack.enter_context(host(folder, number, own)) for number, own in enumerate(resources)]


@contextmanager
def bridge() -> Iterator[None]:
    call("ip", "link", "add", BRIDGE, "type", "bridge")
    try:
        call("ip", "addr", "add", f"{NETWORK}.1/24", "dev", BRIDGE)
        call("ip", "link", "set", BRIDGE, "up")
        yield
    finally:
        call("ip", "link", "del", BRIDGE)


@contextmanager
def host(folder: Path, number: int, resources: dict[str, int]) -> Iterator[Host]:
    name, address = f"marval-h{number}", f"{NETWORK}.{10 + number}"
    home = home_of(folder, name, resources)
    call("ip", "netns", "add", name)
    try:
        connect(name, address)
        process = subprocess.Popen(
            ["ip", "netns", "exec", name, "unshare", "--mount", "--pid", "--uts", "--fork", "--mount-proc", "--kill-child", "sh", "-c",
             START, "sh", name, SSHD, folder / "key", folder / "key.pub", address, home],
            stdout=subprocess.DEVNULL, stderr=(folder / f"{name}.log").open("w", encoding="utf-8"),
        )  # fmt: skip
        try:
            yield Host(name, address, process.pid)
        finally:
            process.kill()
            process.wait(30)
    finally:
        time.sleep(1)  # the kernel takes its processes down
        call("ip", "netns", "del", name)


START = """
hostname $1
mount -t tmpfs -o size=6g tmpfs /dev/shm
mkdir -p /tmp/ray && mount -t tmpfs tmpfs /tmp/ray
mount --bind $6/passwd /etc/passwd
exec $2 -D -e -f /dev/null -h $3 -o ListenAddress=$5 -o AuthorizedKeysFile=$4 -o StrictModes=no -o PidFile=none \
    -o PermitRootLogin=prohibit-password
"""


def home_of(folder: Path, name: str, resources: dict[str, int]) -> Path:
    """A home folder that has the project, as file_mounts and setup_commands would leave it."""
    home = folder / name
    home.mkdir()
    (home / "marval_ray").symlink_to(ROOT)
    # ssh takes ~ from here, whatever HOME says.
    entries = Path("/etc/passwd").read_text(encoding="utf-8").splitlines()
    moved = (f"root:x:0:0::{home}:/bin/bash\n" if entry.startswith("root:") else f"{entry}\n" for entry in entries)
    (home / "passwd").write_text("".join(moved), encoding="utf-8")
    (home / "ray_resources.json").write_text(json.dumps(resources), encoding="utf-8")
    return home


def connect(name: str, address: str) -> None:
    """A cable between namespace and bridge. Ray takes 127.0.0.1 for the host's address when there is no default route."""
    call("ip", "link", "add", f"{name}v", "type", "veth", "peer", "name", "eth0", "netns", name)
    call("ip", "link", "set", f"{name}v", "master", BRIDGE, "up")
    call("ip", "-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
    for link in ("lo", "eth0"):
        call("ip", "-n", name, "link", "set", link, "up")
    call("ip", "-n", name, "route", "add", "default", "via", f"{NETWORK}.1")
    for place, device in (((), f"{name}v"), (("ip", "netns", "exec", name), "eth0")):
        shape((*place, "tc", "qdisc", "add", "dev", device, "root"))


def shape(command: tuple[str, ...]) -> None:
    """Bandwidth and delay of 1 GbE; the bandwidth alone where the kernel has no netem."""
    try:
        call(*command, "netem", "delay", "100us", "rate", "1gbit")
    except subprocess.CalledProcessError:
        call(*command, "tbf", "rate", "1gbit", "burst", "128kb", "latency", "10ms")
