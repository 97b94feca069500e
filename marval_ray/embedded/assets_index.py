"""Where the embedded default lies: real Fashion-MNIST images, their latents, and small models trained on them."""

import json
from pathlib import Path

from marval_ray.diffusion.samplers import Ancestral

ASSETS = Path(__file__).parent / "assets"
VAE = ASSETS / "vae"
CLASSIFIER = ASSETS / "classifier.safetensors"
REFERENCE = ASSETS / "reference.safetensors"
"""Feature statistics of the 10,000 test images."""
IMAGES = ASSETS / "images.parquet"
LATENTS = ASSETS / "latents.parquet"
TEACHER = ASSETS / "teacher" / "teacher.safetensors"
TEACHER_FIGURES = ASSETS / "teacher" / "figures.json"
"""Measured quality and speed of the teacher, its best sampling options and the command that measured them."""
STUDENT = ASSETS / "student" / "student.safetensors"
"""After both stages."""
GSIM_STUDENT = ASSETS / "student" / "student-gsim.safetensors"
"""The same before RL."""

_PREFIX = "embedded"


def teacher_sampler() -> Ancestral:
    """The embedded teacher's sampler at its best options."""
    return Ancestral(**json.loads(TEACHER_FIGURES.read_text(encoding="utf-8"))["sampler"])


def portable(path: Path) -> str:
    """`path` for a file that may move to another machine: assets become embedded/..., others stay."""
    return str(_PREFIX / path.relative_to(ASSETS)) if path.is_relative_to(ASSETS) else str(path)


def resolve(text: str) -> Path:
    """The path that `portable` wrote."""
    path = Path(text)
    return ASSETS / path.relative_to(_PREFIX) if path.is_relative_to(_PREFIX) else path
