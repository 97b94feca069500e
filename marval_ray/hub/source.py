"""Which model draws which images: what sampling and evaluation ask of their users."""

import re
from argparse import ArgumentParser
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

import torch
from jaxtyping import Int64
from torch import Tensor

from marval_ray.config import check_at_least, check_seed
from marval_ray.diffusion.samplers import Ancestral
from marval_ray.embedded import assets_index
from marval_ray.families.generate import Generation, student_generation
from marval_ray.families.mar.checkpoint import load_model, read_config
from marval_ray.families.mar.codec import load_vae
from marval_ray.files.text import read_json
from marval_ray.presets import MODELS, SAMPLERS

DEMO_STUDENT = Path("runs/demo/student.safetensors")
Config = TypeVar("Config", bound="Source")
STUDENTS = ("student.safetensors", "student-gsim.safetensors")
"""What a run of jobs/distill.py exports."""


@dataclass(frozen=True)
class Source:
    checkpoint: Path | None = None
    """Weights with config.json beside them; by default the student of the last `make demo`, else the embedded one."""
    teacher: bool = False
    """Sample a teacher: many diffusion steps a token, as `sampler` says. Without --checkpoint the embedded one."""
    sampler: Ancestral = field(default_factory=assets_index.teacher_sampler)
    """How a teacher draws; the defaults are those of --preset, or of the preset that has the checkpoint's sizes."""
    preset: Literal["tiny", "mar-b", "mar-l", "mar-h"] | None = None
    """Sizes of a checkpoint that has no config.json beside it, such as MAR's checkpoint-last.pth."""
    vae: Path | None = None
    """Autoencoder: a diffusers folder, or KL-16's file; by default the one that config.json names."""
    labels: str = "0-9"
    """Class numbers, such as 3 or 0-9 or 0,2,5-7."""
    per_label: int = 10
    """Images of each class."""
    seed: int = 0
    n_ar: int = 64
    """Auto-regressive loops an image."""
    batch: int = 64

    def __post_init__(self) -> None:
        check_at_least(1, self, "per_label", "n_ar", "batch", prefix="--")
        check_seed(self.seed)

    def generation(self) -> Generation:
        """The model, ready to draw. Raises ValueError when a file does not fit or a number is out of range."""
        path = self._path()
        model = load_model(path, MODELS[self.preset] if self.preset else read_config(path.parent))
        if self.n_ar > model.config.num_tokens:
            raise ValueError(f"--n-ar {self.n_ar} is more than the {model.config.num_tokens} tokens of an image")
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model, vae = model.to(device).eval(), load_vae(self.vae or vae_beside(path)).to(device)
        if self.teacher:
            return Generation(model, vae, self.sampler, self.n_ar, self.batch)
        return student_generation(model, vae, self.n_ar, self.batch)

    def label_tensor(self, num_classes: int) -> Int64[Tensor, " N"]:
        """Each class `per_label` times, class by class."""
        return torch.tensor(parse_labels(self.labels, num_classes)).repeat_interleave(self.per_label)

    def _path(self) -> Path:
        if self.checkpoint:
            return self.checkpoint
        if self.teacher:
            return assets_index.TEACHER
        return DEMO_STUDENT if DEMO_STUDENT.exists() else assets_index.STUDENT


def defaults(kind: type[Config], arguments: Sequence[str] | None = None) -> Config:
    """A `kind` with the sampler of --preset, or of the preset of the checkpoint's sizes, by default the embedded teacher's.

    It is known only from other options, so that they are looked at before all are parsed.
    """
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset")
    parser.add_argument("--checkpoint", type=Path)
    given, _ = parser.parse_known_args(arguments)
    name = given.preset or (preset_of(given.checkpoint) if given.checkpoint else None)
    return kind(sampler=SAMPLERS.get(name or "tiny", SAMPLERS["tiny"]))


def preset_of(checkpoint: Path) -> str | None:
    """The preset that has the sizes in the config.json beside the checkpoint."""
    try:
        config = read_config(checkpoint.parent)
    except ValueError:
        return None  # what is wrong is said where the model is loaded
    return next((name for name, model in MODELS.items() if model == config), None)


def students(run: Path) -> list[Path]:
    """What `run` exported so far, the newest first."""
    ages = modified(run)
    return sorted(ages, key=ages.__getitem__, reverse=True)


def modified(run: Path) -> dict[Path, int]:
    """When each student of `run` was written, in ns. A run that starts anew takes its files away at any time."""
    ages = {}
    for path in (run / name for name in STUDENTS):
        with suppress(FileNotFoundError):
            ages[path] = path.stat().st_mtime_ns
    return ages


def newest_of(path: Path) -> Path:
    """`path` itself, or of a run's folder the newest student. Raises ValueError when there is none."""
    if not path.is_dir():
        return path
    if not (there := students(path)):
        raise ValueError("the run has no student now")
    return there[0]


def student_of(path: Path) -> Path:
    """`path` itself, or of a run's folder the newest student that can be read. Raises ValueError when there is none."""
    if not path.is_dir():
        return path
    for student in students(path):
        if readable(student):
            return student
    raise ValueError(f"{path} has no student that can be read: looked for {' and '.join(STUDENTS)}")


def readable(student: Path) -> bool:
    """Whether the file holds a student as its config.json says."""
    try:
        load_model(student)
    except ValueError:
        return False
    return True


def vae_beside(checkpoint: Path) -> Path:
    """The autoencoder that the checkpoint's config.json names. Raises ValueError when it names none."""
    path = checkpoint.parent / "config.json"
    vae = read_json(path).get("vae") if path.exists() else None
    if not isinstance(vae, str):
        raise ValueError(f"{path} names no autoencoder: give it with --vae")
    return assets_index.resolve(vae)


def parse_labels(text: str, num_classes: int) -> list[int]:
    """"0,2,5-7" to [0, 2, 5, 6, 7]. Raises ValueError when that is not what `text` looks like, or out of range."""
    labels: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if not match:
            raise ValueError(f"--labels {text!r} is not a list of class numbers such as 3 or 0-9 or 0,2,5-7")
        first, last = int(match[1]), int(match[2] or match[1])
        if first > last:
            raise ValueError(f"--labels {text!r}: {part.strip()} runs backwards, write {last}-{first}")
        if last >= num_classes:
            raise ValueError(f"--labels {text!r}: the model's classes are 0-{num_classes - 1}")
        labels += range(first, last + 1)
    return labels
