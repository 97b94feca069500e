"""The folder of a run: which files it holds, and whether it begins fresh, goes on or is overwritten, never by accident.

It is the folder of a model (`marval_ray.hub.exported`) from its beginning, with run.json, metrics and checkpoints besides.
"""

import json
from dataclasses import asdict
from typing import Any

from marval_ray.files.atomic import write_json
from marval_ray.files.places import portable
from marval_ray.files.storage import ERRORS, Storage
from marval_ray.files.text import read_json
from marval_ray.hub.exported import CARD, CODEC, INDEX, TEXTS, furnish
from marval_ray.hub.layout import CONFIG
from marval_ray.runs.looks import LOOKS
from marval_ray.runs.stage import STAGES, TEACHER

SETTINGS = "run.json"
"""All settings of the run; a place that has it holds a run."""
FREE_TO_CHANGE = {"out", "resume", "overwrite", "figures", "stages"} | {
    f"{stage.learner}.{name}" for stage in STAGES for name in ("steps", "seconds", "log_every", "checkpoint_every")
}
"""What a resumed run may set anew: how long it goes on, and what changes no number of an update."""
RECORDS = (SETTINGS, *(stage.metrics for stage in (*STAGES, TEACHER)), "summary.json")
"""What a run needs to go on, or to be looked at, besides its checkpoints."""
OWN = (
    SETTINGS, CONFIG, INDEX, CARD, CODEC, TEXTS, "tensorboard", LOOKS, "summary.json", "report.html", ERRORS,
    *(name for stage in (*STAGES, TEACHER) for name in stage.files),
)  # fmt: skip
"""What a run leaves besides pictures."""


def check_run_folder(storage: Storage, config: Any, resume: bool, overwrite: bool) -> None:
    """Raise ValueError unless a run of `config` (a dataclass with a `model`) may use `storage`, whose records were pulled.

    A place that holds a run needs `resume` or `overwrite`; a resumed run keeps the settings that it began with.
    """
    if resume:
        _check_same(settings_in(storage), _plain(config), storage)
    elif (storage.folder / SETTINGS).exists() and not overwrite:
        state = "finished" if (storage.folder / "summary.json").exists() else "unfinished"
        raise ValueError(f"{storage} holds a {state} run: continue it with --resume, or start anew with --overwrite")
    elif not overwrite and (there := {CONFIG, INDEX, CARD} & set(storage.listing())):
        raise ValueError(f"{storage} holds {' and '.join(sorted(there))} of something else: choose another --out, or --overwrite it")


def open_run_folder(storage: Storage, config: Any, overwrite: bool) -> None:
    """Begin the run in a place that `check_run_folder` accepted, emptied before if `overwrite`; config has a `model` and a `vae`, and
    `texts` where models may read some.

    Codec and text encoder are copied once, and run.json comes last: a place that has it has the rest.
    """
    if overwrite:
        storage.remove([*OWN, *(name for name in storage.listing() if name.endswith(".png"))])
    if not (storage.folder / SETTINGS).exists():
        furnish(storage, config.model, config.vae, getattr(config, "texts", None))
    write_json(storage.folder / SETTINGS, _plain(config))
    storage.push(SETTINGS)


def settings_in(storage: Storage) -> dict[str, Any]:
    """Return all settings of the run in `storage`, whose records were pulled. Raises ValueError when it holds none."""
    path = storage.folder / SETTINGS
    if path.exists():
        return read_json(path)
    if CONFIG in storage.listing():
        raise ValueError(f"{storage} holds {CONFIG} but no {SETTINGS}: a model, or a run of an older version, which cannot go on; "
                         f"`python jobs/export.py {storage} --to FOLDER` takes its student out")  # fmt: skip
    raise ValueError(f"{storage} holds no run to resume or to look at: name the --out of one")


def _check_same(began: dict[str, Any], resolved: dict[str, Any], storage: Storage) -> None:
    before, now = _flat(began), _flat(resolved)
    changed = [
        f"{name} was {before.get(name)}, is {now.get(name)}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name) and not {name, name.split(".")[0]} & FREE_TO_CHANGE
    ]
    if changed:
        raise ValueError(f"{storage} began with other settings ({'; '.join(changed)}): give the same, or another --out")


def _plain(config: Any) -> dict:
    """Return what run.json says."""
    return json.loads(json.dumps(asdict(config), default=portable))


def _flat(tree: dict, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
