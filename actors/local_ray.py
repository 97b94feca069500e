"""The Ray that a job works in: the cluster that there is, or one of its own."""

import os
import socket
from typing import Any

import ray

from marval_ray.environment import cluster_is_there

LOCALHOST = "127.0.0.1"


def begin(**options: Any) -> None:
    """Join the cluster that there is, or start a Ray of this process' own; `options` are those of `ray.init`.

    Some of Ray's processes look for the Ray of this machine, and end with a traceback when another job has one too. So those of
    a Ray that is started here know its address from their environment, before they are there.
    """
    on_localhost = os.environ.get("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER") == "0"
    if cluster_is_there() or not on_localhost:
        ray.init(**options)
        return
    port = free_port()
    os.environ |= {"RAY_GCS_SERVER_PORT": str(port), "RAY_ADDRESS": f"{LOCALHOST}:{port}"}
    ray.init("local", **options)


def free_port() -> int:
    """Return a port on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind((LOCALHOST, 0))
        return int(probe.getsockname()[1])
