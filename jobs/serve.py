"""Serve a student over HTTP: a web page at /, OpenAI's Images API at /v1, its description at /docs.

    python jobs/serve.py
    python jobs/serve.py --checkpoint runs/distill/student.safetensors --gpus 1
    python jobs/serve.py --follow runs/distill

Listens on localhost unless --host says otherwise. MARVAL_API_KEY in the environment, or --key-file, asks clients for a key.
"""

import os
import signal
import socket
import threading
from dataclasses import dataclass, replace
from pathlib import Path

from marval_ray.environment import before_ray

before_ray()
os.environ.setdefault("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", "actors.proxy.middlewares")

import ray
from ray import serve

from actors.endpoint import EndpointConfig, application, demands, user_config, version_of
from actors.resources import check_resources, node_resources
from marval_ray import cli
from marval_ray.source import student_of, students
from marval_ray.weights import load_model


@dataclass(frozen=True)
class Config(EndpointConfig):
    host: str = "127.0.0.1"
    """0.0.0.0 listens on all interfaces: set a key first."""
    port: int = 8000
    follow: Path | None = None
    """A run of jobs/distill.py: serve its newest student, and move on to each that comes, without dropping a request."""
    poll: float = 5.0
    """Seconds between looks at that run."""


def main(config: Config) -> None:
    stop = stop_event()
    check_port(config.host, config.port)
    if config.follow is not None:
        wait_for_student(config.follow, config.poll, stop)
        config = replace(config, checkpoint=config.follow)
    if stop.is_set():
        return
    first = student_of(config.checkpoint)
    load_model(first)  # a bad file is an error here, not in a replica's log
    app = application(replace(config, allowed_hosts=(config.host, *config.allowed_hosts)))
    ray.init()
    check_resources(demands(config), node_resources())
    serve.start(proxy_location="HeadOnly", http_options={"host": config.host, "port": config.port})
    serve.run(app, name="marval", logging_config={"enable_access_log": False})
    stop = stop_event()  # Ray has its own handlers, and until here nobody would look
    print(f"serving {first}\nhttp://{config.host}:{config.port}/  page; /docs  API; stop with Ctrl-C", flush=True)
    seen = stamp(first)
    while not stop.wait(config.poll):
        if config.follow is not None:
            seen = move_on(config.follow, seen)
    serve.delete("marval")


def stop_event() -> threading.Event:
    """Set by Ctrl-C and SIGTERM from now on."""
    stop = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stop.set())
    return stop


def check_port(host: str, port: int) -> None:
    """Raise ValueError when nobody can listen there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise ValueError(f"cannot listen on {host}:{port} ({error}): choose another --port") from error


def wait_for_student(run: Path, poll: float, stop: threading.Event) -> None:
    """Return once `run` has a student, or `stop` is set. Raises ValueError when `run` is no folder."""
    if not run.is_dir():
        raise ValueError(f"--follow {run} is not a folder: name a run of jobs/distill.py")
    while not students(run):
        print(f"{run} has no student yet: waiting for the end of its GSIM stage", flush=True)
        if stop.wait(poll):
            return


def stamp(path: Path) -> tuple[Path, int]:
    """Tells a file from the one that had its name before."""
    return path, path.stat().st_mtime_ns


def move_on(run: Path, seen: tuple[Path, int]) -> tuple[Path, int]:
    """Serve the newest student of `run` unless it has been `seen`; one that does not fit is left out."""
    newest = students(run)[0]
    if stamp(newest) == seen:
        return seen
    try:
        load_model(newest)
    except ValueError as error:
        print(f"stays with the student that it has: {error}", flush=True)
        return stamp(newest)
    # Not another serve.run: that would replace all replicas.
    serve.get_deployment_handle("Sampler", "marval").broadcast("reconfigure", user_config(newest)).results(timeout_s=600)
    print(f"serving {newest}, version {version_of(newest)}", flush=True)
    return stamp(newest)


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
