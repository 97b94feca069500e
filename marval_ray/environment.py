"""Ray's own settings. They come from the environment, and Ray reads them when it is imported."""

import os
from pathlib import Path


def before_ray() -> None:
    """Set what suits a Ray that this process may start; call it before `import ray`. What is set already stays."""
    os.environ.setdefault("RAY_worker_niceness", "0")  # workers would otherwise yield to every other process of the machine
    if not cluster_is_there():
        # A Ray that is no cluster listens on localhost alone, as it does by itself on the systems that this is named after.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


def cluster_is_there() -> bool:
    """Whether `ray.init()` will join a cluster, one that is named or one that `ray start` left a note of."""
    note = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray/ray_current_cluster"
    named = os.environ.get("RAY_ADDRESS")
    return named != "local" if named else note.exists()
