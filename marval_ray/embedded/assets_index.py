"""Where the embedded defaults lie: real Fashion-MNIST images, their latents, and small models trained on them."""

import json

from marval_ray.diffusion.samplers import Ancestral
from marval_ray.files.places import ASSETS

VAE = ASSETS / "vae"
CLASSIFIER = ASSETS / "classifier.safetensors"
REFERENCE = ASSETS / "reference.safetensors"
"""Judge A, and its feature statistics of the 10,000 test images."""
CLASSIFIER_B = ASSETS / "classifier-b.safetensors"
REFERENCE_B = ASSETS / "reference-b.safetensors"
"""Judge B and its statistics, for reports alone: nothing that trains or selects reads them."""
IMAGES = ASSETS / "images.parquet"
LATENTS = ASSETS / "latents.parquet"
TEACHER = ASSETS / "teacher" / "teacher.safetensors"
TEACHER_FIGURES = ASSETS / "teacher" / "figures.json"
"""Measured quality and speed of the teacher, its best sampling options and the command that measured them."""
STUDENT = ASSETS / "student" / "student.safetensors"
"""After both stages."""
GSIM_STUDENT = ASSETS / "student" / "student-gsim.safetensors"
"""The same before RL."""
SCENE_CLASSIFIER = ASSETS / "scene-judge" / "classifier.safetensors"
SCENE_REFERENCE = ASSETS / "scene-judge" / "reference.safetensors"
"""Judge A of scenes, and its feature statistics of 10,000 held-out ones."""
SCENE_CLASSIFIER_B = ASSETS / "scene-judge-b" / "classifier.safetensors"
SCENE_REFERENCE_B = ASSETS / "scene-judge-b" / "reference.safetensors"
"""Judge B of scenes and its statistics, for reports alone."""


def teacher_sampler() -> Ancestral:
    """Return the embedded teacher's sampler at its best options."""
    return Ancestral(**json.loads(TEACHER_FIGURES.read_text(encoding="utf-8"))["sampler"])
