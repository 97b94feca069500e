"""Where the embedded defaults lie: real Fashion-MNIST images, their latents, and small models trained on them."""

import json
from pathlib import Path

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

SCENE_MODEL = ASSETS / "scene-model"
SCENE_TEACHER = SCENE_MODEL / "teacher.safetensors"
"""The text-to-image teacher of scenes, beside its codec and its text encoder."""
SCENE_CODEC, SCENE_TEXTS = SCENE_MODEL / "codec", SCENE_MODEL / "text_encoder"
SCENE_CODES = SCENE_MODEL / "codes.parquet"
"""Codes and residuals of scenes that it was trained on, with prompts."""
SCENE_FIGURES = SCENE_MODEL / "figures.json"
"""Its measured quality, as TEACHER_FIGURES."""
SCENE_REWARD = ASSETS / "scene-reward"
"""A CLIP that tells which prompt a scene is of."""
SCENE_PROMPTS, HELD_OUT_PROMPTS = ASSETS / "scenes" / "train.txt", ASSETS / "scenes" / "held-out.txt"
"""What RL asks for, and combinations that nothing trains on, which it is measured by."""


def teacher_sampler(figures: Path = TEACHER_FIGURES) -> Ancestral:
    """Return an embedded teacher's sampler at its best options."""
    return Ancestral(**json.loads(figures.read_text(encoding="utf-8"))["sampler"])
