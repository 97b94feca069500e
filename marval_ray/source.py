"""Which model draws which images: what sampling and evaluation ask of their users."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypeVar

import torch
import tyro
from jaxtyping import Int64
from torch import Tensor

from marval_ray.cli import given
from marval_ray.config import check_at_least, check_seed
from marval_ray.device import own_device
from marval_ray.diffusion.samplers import Ancestral
from marval_ray.embedded import assets_index
from marval_ray.families.base import FamilyConfig
from marval_ray.families.generation import Generation, student_generation
from marval_ray.files.tensors import check_there
from marval_ray.hub.exported import index_beside
from marval_ray.hub.layout import codec_beside, load_model, read_config, texts_beside
from marval_ray.presets import MODELS, SAMPLERS, PresetName
from marval_ray.runs.stage import TEACHER
from marval_ray.runs.students import student_of, students

DEMO = Path("runs/demo")
PER_PROMPT = tyro.conf.arg(aliases=["--per-prompt"])
"""What --per-label is called where models read texts."""
Config = TypeVar("Config", bound="Source")


@dataclass(frozen=True)
class Source:
    checkpoint: Path | None = None
    """A run or an export, whose newest student counts, or a file of weights; by default the last `make demo`, else the embedded one."""
    teacher: bool = False
    """Sample a teacher: many diffusion steps a token, as `sampler` says. Without --checkpoint the embedded one."""
    sampler: Ancestral = field(default_factory=assets_index.teacher_sampler)
    """How a teacher draws; the defaults are those of --preset, or of the preset that has the checkpoint's sizes."""
    preset: PresetName | None = None
    """Sizes of a checkpoint that has no config.json beside it, such as MAR's checkpoint-last.pth."""
    vae: Path | None = None
    """Autoencoder: a diffusers folder, KL-16's file, or DC-HT's folder; by default the one that config.json names."""
    texts: Path | None = None
    """Text encoder of a model that reads texts: T5's folder; by default the one that config.json names."""
    labels: str = "0-9"
    """Class numbers, such as 3 or 0-9 or 0,2,5-7."""
    per_label: Annotated[int, PER_PROMPT] = 10
    """Images of each class, or prompt."""
    seed: int = 0
    n_ar: int | None = None
    """Auto-regressive loops an image; by default those of model_index.json, else the model's: 64 or all tokens, 12 of DC-AR."""
    batch: int = 64

    def __post_init__(self) -> None:
        check_at_least(1, self, "per_label", "batch", prefix="--")
        if self.n_ar is not None:
            check_at_least(1, self, "n_ar", prefix="--")
        check_seed(self.seed)

    def generation(self) -> Generation:
        """Return the model, ready to draw. Raises ValueError when a file does not fit or a number is out of range."""
        path = self.weights
        check_there(path)
        config = MODELS[self.preset] if self.preset else read_config(path.parent)
        model = load_model(path, config)
        index = index_beside(path)
        loops = self.n_ar or (index.loops if index else min(config.family.loops, config.num_tokens))
        if loops > config.num_tokens:
            raise ValueError(f"--n-ar {loops} is more than the {config.num_tokens} tokens of an image")
        device = own_device()
        model, codec = model.to(device).eval(), config.family.codec(self.vae or codec_beside(path), config).to(device)
        texts = self.texts or texts_beside(path)
        config.family.conditioner(config, device, texts)  # a text encoder that does not fit is refused before anything is drawn
        if self.teacher:
            return Generation(model, codec, self.sampler, loops, self.batch, texts)
        return student_generation(model, codec, loops, self.batch, texts)

    def label_tensor(self, num_classes: int | None) -> Int64[Tensor, " N"]:
        """Return each class `per_label` times, class by class. Raises ValueError as `parse_labels` does."""
        return torch.tensor(parse_labels(self.labels, num_classes)).repeat_interleave(self.per_label)

    @property
    def weights(self) -> Path:
        """Return the file of weights. Raises ValueError when the checkpoint is a folder without any."""
        if self.teacher:
            return student_of(self.checkpoint or assets_index.TEACHER, (TEACHER.student,))
        return student_of(self.checkpoint or (DEMO if students(DEMO) else assets_index.STUDENT))


def defaults(kind: type[Config], arguments: Sequence[str] | None = None) -> Config:
    """Return a `kind` with the sampler of --preset, or of the preset of the checkpoint's sizes, by default the embedded teacher's.

    It is known only from other options, so that they are looked at before all are parsed.
    """
    checkpoint = given("--checkpoint", arguments)
    name = given("--preset", arguments) or (preset_of(Path(checkpoint)) if checkpoint else None)
    return kind(sampler=SAMPLERS.get(name or "tiny", SAMPLERS["tiny"]))


def preset_of(checkpoint: Path) -> str | None:
    """Find the preset that has the sizes in the config.json of the checkpoint, a folder or a file in it."""
    config = config_of(checkpoint)
    return next((name for name, model in MODELS.items() if model == config), None)


def config_of(checkpoint: Path) -> FamilyConfig | None:
    """Read the config.json of the checkpoint, a folder or a file in it; None where there is none that can be read."""
    try:
        return read_config(checkpoint if checkpoint.is_dir() else checkpoint.parent)
    except ValueError:
        return None  # what is wrong is said where the model is loaded


def parse_labels(text: str, num_classes: int | None) -> list[int]:
    """Turn "0,2,5-7" into [0, 2, 5, 6, 7].

    Raises ValueError when that is not what `text` looks like, or out of range, and for a model without classes.
    """
    if num_classes is None:
        raise ValueError("the checkpoint reads texts, and this needs a model of classes")
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
