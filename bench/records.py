"""Runs of jobs/distill.py, whose summaries are kept beside the settings that gave them."""

import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from marval_ray.embedded import assets_index
from marval_ray.files.atomic import atomic_path, write_json
from marval_ray.files.places import ASSETS, portable
from marval_ray.presets import PRESETS, PresetName
from marval_ray.runs.folder import SETTINGS

JOB = Path(__file__).parent.parent / "jobs/distill.py"
DEFAULT = PRESETS["tiny"]
PARTS = {"gsim": ("model", "gsim", "learner"), "rl": ("model", "gsim", "rl", "rl_learner", "guard")}
"""Parts of the configuration on which a stage's figures depend."""
FILES: dict[str, dict[str, tuple[Path, ...]]] = {
    "tiny": {
        "gsim": (assets_index.TEACHER, assets_index.LATENTS, assets_index.VAE, assets_index.CLASSIFIER, assets_index.CLASSIFIER_B),
        "rl": (ASSETS / "reward",),
    },
    "tiny-t2i": {
        "gsim": (
            assets_index.SCENE_TEACHER, assets_index.SCENE_CODES, assets_index.SCENE_CODEC, assets_index.SCENE_TEXTS,
            assets_index.SCENE_CLASSIFIER, assets_index.SCENE_CLASSIFIER_B, assets_index.HELD_OUT_PROMPTS,
        ),
        "rl": (assets_index.SCENE_REWARD, assets_index.SCENE_PROMPTS),
    },
}  # fmt: skip
"""Files and folders of weights on whose content they depend, by preset and stage."""

Summary = dict[str, Any]
Settings = dict[str, Any]
"""Values by the name of their option."""


@dataclass(frozen=True)
class Records:
    """`path`: the JSON file that keeps them; `out`: a folder for the runs, which are of `preset`."""

    path: Path
    out: Path
    preset: PresetName = "tiny"

    def measure(self, name: str, stage: str, options: Settings) -> Summary:
        """The summary of a run with `options`, from the records when they have one of the same settings."""
        return self.kept(name, stage, options, lambda: distil(self.out / name, stage, {"preset": self.preset} | options))

    def kept(self, name: str, stage: str, options: Settings, make: Callable[[], Summary]) -> Summary:
        """What `make` measures, from the records when they have it of a run of the same settings."""
        records = json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}
        wanted = json.loads(json.dumps(settings(stage, options, self.preset), default=portable))
        if name not in records or records[name]["settings"] != wanted:
            records[name] = {"settings": wanted, "summary": make()}
            write_json(self.path, records)
        return records[name]["summary"]

    def variants(self, prefix: str, stage: str, shared: Settings, variants: dict[str, Settings]) -> dict[str, Summary]:
        """Summaries of runs with `shared` and each one's own options, by the variant's title."""
        return {title: self.measure(f"{prefix}-{slug(title)}", stage, shared | own) for title, own in variants.items()}


def slug(title: str) -> str:
    """A file name of it."""
    return "".join(c if c.isalnum() or c in ".-" else "_" for c in title)


def settings(stage: str, options: Settings, preset: PresetName = "tiny") -> Settings:
    """All that a run's figures depend on: the preset with `options`, by dotted name."""
    stages = stage.split(",")
    parts = dict.fromkeys(part for name in stages for part in PARTS[name])
    default = {f"{part}.{key}": value for part in parts for key, value in asdict(getattr(PRESETS[preset], part)).items()}
    files = {portable(path): checksum(path) for name in stages for path in FILES[preset][name]}
    return default | files | {"seed": 0} | options


def checksum(path: Path) -> str:
    """Of a file, or of the safetensors in a folder."""
    found = hashlib.sha256()
    for file in sorted(path.glob("*.safetensors")) if path.is_dir() else [path]:
        found.update(file.read_bytes())
    return found.hexdigest()[:16]


def write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(path)


def write_between(path: Path, begin: str, end: str, text: str) -> None:
    """Put `text` in the place of what stands between two marks of a page."""
    before, rest = path.read_text(encoding="utf-8").split(begin)
    write(path, f"{before}{begin}{text}{end}{rest.split(end)[1]}")


def copy_pictures(run: Path, folder: Path, names: dict[str, str]) -> None:
    """Copy pictures of a run under names of their own. Of a run that is recorded but no longer there the old ones stay."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, copy in names.items() if (run / "summary.json").exists() else ():
        shutil.copy(run / name, folder / copy)


def distil(out: Path, stage: str, options: Settings) -> Summary:
    """The summary of a run in `out`; an interrupted one goes on."""
    flags = flags_of(options)
    print(out, *flags, flush=True)
    began = time.monotonic()
    if (out / SETTINGS).exists() and not (out / "summary.json").exists():
        flags += ["--resume"]
    else:
        flags += ["--overwrite"]
    subprocess.run([sys.executable, JOB, "--out", out, "--stages", stage, *flags], check=True)
    print(f"{time.monotonic() - began:.0f} s", flush=True)
    return json.loads((out / "summary.json").read_text(encoding="utf-8"))


def flags_of(options: Settings) -> list[str]:
    """The words of a command line that set `options`."""
    return [text for name, value in options.items() for text in flag(name, value)]


def flag(name: str, value: Any) -> list[str]:
    """The words that set one option; a switch has none for its value."""
    if isinstance(value, bool):
        group, _, own = name.rpartition(".")
        return [f"--{group}.{'' if value else 'no-'}{own.replace('_', '-')}"]
    return [f"--{name}", *words(value)]


def words(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, tuple) else [str(value)]
