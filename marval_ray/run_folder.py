"""The folder of a run: fresh, resumed or overwritten, and never by accident."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from marval_ray.assets_index import portable
from marval_ray.files import write_json

FREE_TO_CHANGE = {"out", "resume", "overwrite", "figures", "stages"} | {
    f"{learner}.{name}" for learner in ("learner", "rl_learner") for name in ("steps", "seconds", "log_every", "checkpoint_every")
}
"""What a resumed run may set anew: how long it goes on, and what changes no number of an update."""
OWN = (
    "train", "train-rl", "tensorboard", "metrics.jsonl", "metrics-rl.jsonl", "config.json", "student-gsim.safetensors",
    "student.safetensors", "summary.json", "report.html",
)  # fmt: skip


def check_run_folder(folder: Path, config: Any, resume: bool, overwrite: bool) -> None:
    """Raise ValueError unless a run of `config` (a dataclass) may use `folder`.

    A folder that holds a run needs `resume` or `overwrite`; a resumed run keeps the settings that it began with.
    """
    path = folder / "config.json"
    if resume:
        _check_same(path, _plain(config))
    elif path.exists() and not overwrite:
        state = "finished" if (folder / "student.safetensors").exists() else "unfinished"
        raise ValueError(f"{folder} holds a {state} run: continue it with --resume, or start anew with --overwrite")


def open_run_folder(folder: Path, config: Any, overwrite: bool) -> None:
    """Write config.json into a folder that `check_run_folder` accepted, emptied before if `overwrite`."""
    if overwrite:
        clear(folder)
    write_json(folder / "config.json", _plain(config))


def clear(folder: Path) -> None:
    """Delete what a run writes, and nothing else."""
    for path in [folder / name for name in OWN] + list(folder.glob("*.png")):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _check_same(path: Path, resolved: dict) -> None:
    if not path.exists():
        raise ValueError(f"{path.parent} holds no run to resume: leave --resume out, or correct --out")
    before, now = _flat(json.loads(path.read_text())), _flat(resolved)
    changed = [
        f"{name} was {before.get(name)}, is {now.get(name)}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name) and not {name, name.split(".")[0]} & FREE_TO_CHANGE
    ]
    if changed:
        raise ValueError(f"{path.parent} began with other settings ({'; '.join(changed)}): give the same, or another --out")


def _plain(config: Any) -> dict:
    return json.loads(json.dumps(asdict(config), default=portable))


def _flat(tree: dict, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
