"""Harm to a run on this machine's Ray: killed and paused actors, a full object store, a slow network."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from unittest.mock import patch

import numpy as np
import ray
from ray.util.state import list_actors

ROLES = ("RolloutWorker", "RewardWorker", "Judge", "RayTrainWorker")


def disturb(seed: int, seconds: float, over: Callable[[], bool]) -> dict[str, int]:
    """Do random harm until so much time has passed or the run is `over`; how often each kind and role was hit."""
    rng, end, done = random.Random(seed), time.monotonic() + seconds, dict[str, int]()
    kinds = (kill, kill, pause, fill, *((slow,) if own_network() else ()))
    while time.monotonic() < end and not over():
        harm, role = rng.choice(kinds), rng.choice(ROLES)
        name = harm(rng, role)
        done[name] = done.get(name, 0) + 1
        time.sleep(rng.uniform(3, 10))
    return done


def kill(rng: random.Random, role: str) -> str:
    send(rng, role, signal.SIGKILL)
    return f"kill {role}"


def pause(rng: random.Random, role: str) -> str:
    """For so long that some calls are late and others are not."""
    pid = send(rng, role, signal.SIGSTOP)
    time.sleep(rng.uniform(1, 15))
    with suppress(ProcessLookupError):  # replaced meanwhile
        os.kill(pid, signal.SIGCONT)
    return f"pause {role}"


def fill(rng: random.Random, role: str) -> str:
    """All of the object store, for a while."""
    part = int(ray.cluster_resources()["object_store_memory"] / 8)
    held = [ray.put(np.ones(part, np.uint8)) for _ in range(8)]
    time.sleep(rng.uniform(1, 5))
    del held
    return "fill the object store"


def own_network() -> bool:
    """Whether these processes have a network to themselves, as `make test-chaos` gives them when it may."""
    return "OWN_NETWORK" in os.environ


def slow(rng: random.Random, role: str) -> str:
    """2 Mbit/s between all processes for a while: whatever is larger than a message waits."""
    queue = ("tc", "qdisc", "replace", "dev", "lo", "root", "tbf", "rate", "2mbit", "burst", "128kb", "latency", "5s")
    subprocess.run(queue, check=True)
    time.sleep(rng.uniform(3, 15))
    subprocess.run(("tc", "qdisc", "del", "dev", "lo", "root"), check=True)
    return "slow the network"


def alive(role: str) -> list[int]:
    """Return the processes of the living actors of that class, in the Ray of this process: other tests may have theirs."""
    here = ray.get_runtime_context().gcs_address
    with patch.dict(os.environ, RAY_API_SERVER_ADDRESS=here):  # it is looked at before RAY_ADDRESS, and that before arguments
        return [actor.pid for actor in list_actors(filters=[("class_name", "=", role), ("state", "=", "ALIVE")])]


def send(rng: random.Random, role: str, what: signal.Signals) -> int:
    """Signal one living actor of that role, as soon as there is one; its pid."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        pids = alive(role)
        with suppress(IndexError, ProcessLookupError):  # it is being replaced
            pid = rng.choice(pids)
            os.kill(pid, what)
            return pid
        time.sleep(1)
    raise AssertionError(f"no {role} is there: did the run end before the harm?")
