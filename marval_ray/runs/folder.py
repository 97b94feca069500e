"""The folder of a run: which files it holds, and whether it begins fresh, goes on or is overwritten, never by accident."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from marval_ray.files.atomic import write_json
from marval_ray.files.places import portable
from marval_ray.files.storage import ERRORS, Storage
from marval_ray.hub.layout import described
from marval_ray.runs.looks import LOOKS
from marval_ray.runs.stage import STAGES, TEACHER

FREE_TO_CHANGE = {"out", "resume", "overwrite", "figures", "stages"} | {
    f"{stage.learner}.{name}" for stage in STAGES for name in ("steps", "seconds", "log_every", "checkpoint_every")
}
"""What a resumed run may set anew: how long it goes on, and what changes no number of an update."""
RECORDS = ("config.json", *(stage.metrics for stage in (*STAGES, TEACHER)), "summary.json")
"""What a run needs to go on, or to be looked at, besides its checkpoints."""
OWN = (
    "config.json", "tensorboard", LOOKS, "summary.json", "report.html", ERRORS,
    *(name for stage in (*STAGES, TEACHER) for name in stage.files),
)  # fmt: skip
"""What a run leaves besides pictures."""


def check_run_folder(storage: Storage, config: Any, resume: bool, overwrite: bool) -> None:
    """Raise ValueError unless a run of `config` (a dataclass with a `model`) may use `storage`, whose records were pulled.

    A place that holds a run needs `resume` or `overwrite`; a resumed run keeps the settings that it began with.
    """
    path = storage.folder / "config.json"
    if resume:
        _check_same(path, _plain(config), storage)
    elif path.exists() and not overwrite:
        state = "finished" if (storage.folder / "summary.json").exists() else "unfinished"
        raise ValueError(f"{storage} holds a {state} run: continue it with --resume, or start anew with --overwrite")


def open_run_folder(storage: Storage, config: Any, overwrite: bool) -> None:
    """Write config.json into a place that `check_run_folder` accepted, emptied before if `overwrite`."""
    if overwrite:
        storage.remove([*OWN, *(name for name in storage.listing() if name.endswith(".png"))])
    write_json(storage.folder / "config.json", _plain(config))
    storage.push("config.json")


def _check_same(path: Path, resolved: dict, storage: Storage) -> None:
    if not path.exists():
        raise ValueError(f"{storage} holds no run to resume: leave --resume out, or correct --out")
    before, now = _flat(json.loads(path.read_text(encoding="utf-8"))), _flat(resolved)
    changed = [
        f"{name} was {before.get(name)}, is {now.get(name)}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name) and not {name, name.split(".")[0]} & FREE_TO_CHANGE
    ]
    if changed:
        raise ValueError(f"{storage} began with other settings ({'; '.join(changed)}): give the same, or another --out")


def _plain(config: Any) -> dict:
    """Return what the run's config.json says: all settings, and of the model what `read_config` asks for."""
    return json.loads(json.dumps(asdict(config) | described(config.model), default=portable))


def _flat(tree: dict, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
