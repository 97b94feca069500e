"""Where the embedded default lies: real Fashion-MNIST images, their latents, and small models trained on them."""

import json
from pathlib import Path

from marval_ray.sampling import Ancestral

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
IMAGE_SIZE = 28
"""Pixels of the data itself; the models see it padded with black to 32."""


def teacher_sampler() -> Ancestral:
    """The embedded teacher's sampler at its best options."""
    return Ancestral(**json.loads(TEACHER_FIGURES.read_text())["sampler"])
