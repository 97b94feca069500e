"""A real server of jobs/serve.py, in processes of its own."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
from commands import ROOT

from actors.local_ray import free_port

PATH = "/v1/images/generations"
READY = "stop with Ctrl-C"


@dataclass(frozen=True)
class Server:
    address: str
    pid: int

    def state(self) -> dict:
        answer = httpx.get(f"{self.address}/healthz", timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def metrics(self) -> str:
        """What Prometheus would read from Ray's agent."""
        for agent in self.processes("DashboardAgent"):
            for host, port in {(c.laddr.ip, c.laddr.port) for c in agent.net_connections("tcp") if c.status == "LISTEN"}:
                with suppress(httpx.HTTPError):
                    host = host if host[0].isdigit() and host != "0.0.0.0" else "127.0.0.1"
                    answer = httpx.get(f"http://{host}:{port}/metrics", timeout=10)
                    if "ray_" in answer.text:
                        return answer.text
        return ""

    def processes(self, title: str) -> list[psutil.Process]:
        """Its processes with that in their title."""
        return [p for p in psutil.Process(self.pid).children(recursive=True) if title in title_of(p)]


def title_of(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess):  # it ended meanwhile
        return " ".join(process.cmdline())
    return ""


def begin(log: Path, *options: object, env: dict[str, str] | None = None) -> subprocess.Popen:
    """Start jobs/serve.py, with its output in `log`."""
    command = [sys.executable, "jobs/serve.py", "--threads", "1", *map(str, options)]
    with log.open("w", encoding="utf-8") as file:
        return subprocess.Popen(command, cwd=ROOT, env=os.environ | (env or {}), stdout=file, stderr=file, start_new_session=True)


@contextmanager
def server(log: Path, *options: object, env: dict[str, str] | None = None) -> Iterator[Server]:
    """A server that is ready. Its output goes to `log`."""
    port = free_port()
    process = begin(log, "--port", port, *options, env=env)
    try:
        wait_until(lambda: READY in log.read_text(encoding="utf-8") or process.poll() is not None, 120)
        assert process.poll() is None, log.read_text(encoding="utf-8")[-3000:]
        yield Server(f"http://127.0.0.1:{port}", process.pid)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, log.read_text(encoding="utf-8")[-3000:]


def wait_until(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


class Load:
    """Clients that ask for single images until told to stop, or nobody listens, and note what they get (0 for no answer)."""

    def __init__(self, running: Server, clients: int):
        self.url, self.stop, self.answers = f"{running.address}{PATH}", threading.Event(), list[tuple[int, str]]()
        self.threads = [threading.Thread(target=self._ask, args=(k,)) for k in range(clients)]

    def _ask(self, k: int) -> None:
        with httpx.Client(timeout=60) as client:
            for seed in range(k, 1_000_000, len(self.threads)):
                if self.stop.is_set():
                    return
                try:
                    answer = client.post(self.url, json={"class": seed % 10, "seed": seed, "steps": 16})
                except httpx.TransportError as error:
                    self.answers.append((0, str(error)))
                    return
                self.answers.append((answer.status_code, answer.headers.get("x-model-version", answer.text)))

    def __enter__(self) -> "Load":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(timeout=60)
            assert not thread.is_alive(), "a request hangs"
