"""Serve a student over HTTP: a web page at /, OpenAI's Images API at /v1, its description at /docs.

    python jobs/serve.py
    python jobs/serve.py --checkpoint runs/distill --gpus 1
    python jobs/serve.py --follow runs/distill

Listens on localhost unless --host says otherwise. MARVAL_API_KEY in the environment, or --key-file, asks clients for a key.
"""

import socket
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

from actors.serving.descendants import end_them_at_exit, lost
from actors.signals import hold_back, leave, leave_if_asked, let_through, on_signal
from marval_ray.environment import before_ray, before_serve

hold_back()
end_them_at_exit()
before_ray()
before_serve()

import ray
from ray import serve
from ray.exceptions import RayError

from actors import local_ray
from actors.resources import check_resources, node_resources
from actors.serving.endpoint import application, demands
from actors.serving.endpoint_config import EndpointConfig
from actors.serving.sampler import Served, check_draws
from marval_ray import cli
from marval_ray.hub.layout import codec_beside, load_model, texts_beside
from marval_ray.runs.students import modified, readable_student_of, students


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
    check_port(config.host, config.port)
    if config.follow is not None:
        wait_for_student(config.follow, config.poll)
        config = replace(config, checkpoint=config.follow)
    first = readable_student_of(config.checkpoint)
    app = application(replace(config, allowed_hosts=(config.host, *config.allowed_hosts)))
    check(first, config)
    leave_if_asked()
    local_ray.begin()
    on_signal(leave)
    let_through()
    check_resources(demands(config), node_resources())
    serve.start(proxy_location="HeadOnly", http_options={"host": config.host, "port": config.port})
    serve.run(app, name="marval", logging_config={"enable_access_log": False})
    stop = threading.Event()
    on_signal(lambda *_: stop.set())
    print(f"serving {first}\nhttp://{config.host}:{config.port}/  page; /docs  API; stop with Ctrl-C", flush=True)
    watch(config, stop)
    on_signal(leave)
    print("ending once all that is under way is finished; Ctrl-C again ends at once", flush=True)
    finish(config.deadline)
    print("ended", flush=True)


def check_port(host: str, port: int) -> None:
    """Raise ValueError when nobody can listen there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise ValueError(f"cannot listen on {host}:{port} ({error}): choose another --port") from error


def wait_for_student(run: Path, poll: float) -> None:
    """Return once `run` has a student. Raises ValueError when `run` is no folder."""
    if not run.is_dir():
        raise ValueError(f"--follow {run} is not a folder: name a run of jobs/distill.py")
    while not students(run):
        print(f"{run} has no student yet: waiting for the end of its GSIM stage", flush=True)
        leave_if_asked(poll)


def check(student: Path, config: Config) -> None:
    """Raise ValueError when the student cannot be served: here, and not in a replica's log."""
    model = load_model(student)
    codec = model.config.family.codec(config.vae or codec_beside(student), model.config)
    check_draws(Served(model.eval(), codec, "first", config.texts or texts_beside(student)), student)


def watch(config: Config, stop: threading.Event) -> None:
    """Return when `stop` is set; until then move on to each new student of the run that is followed."""
    seen = modified(config.follow) if config.follow else {}
    while not stop.wait(config.poll):
        if lost("gcs_server") or lost("raylet"):
            raise ValueError("a part of Ray without which nothing works was lost: start the server again")
        if config.follow and (now := modified(config.follow)) != seen and move_on(config.follow):
            seen = now


def move_on(run: Path) -> bool:
    """Let every replica look at the newest student of `run`; what it cannot serve it refuses. False when they could not be asked."""
    try:
        said = ray.get(reconfigured.remote({"checkpoint": str(run)}))
    except RayError as error:
        print(f"the replicas do not answer, and are asked again: {type(error).__name__}", file=sys.stderr, flush=True)
        return False
    for reason in set(said) - {None}:
        print(f"stays with the student that it has, as in {run}: {reason}", file=sys.stderr, flush=True)
    if None in said:
        print(f"serving the newest student of {run}", flush=True)
    return True


@ray.remote(num_cpus=0)
def reconfigured(changes: dict[str, str]) -> list[str | None]:
    """Return what each replica says of the changes: None, or why it refuses them.

    Not another serve.run, which would replace all replicas. In a process of its own: a handle polls Serve in a thread for ever, and
    one that does so while this process ends would connect to Ray again.
    """
    return serve.get_deployment_handle("Sampler", "marval").broadcast("reconfigure", changes).results(timeout_s=600)


def finish(deadline: float) -> None:
    """Take no more requests, and return when those under way are finished."""
    end = time.monotonic() + deadline
    while time.monotonic() < end:
        try:
            return serve.delete("marval")
        except TimeoutError:  # Serve waits a minute at most
            continue


if __name__ == "__main__":
    try:
        cli.run(main, Config, __doc__)
    finally:
        let_through()
