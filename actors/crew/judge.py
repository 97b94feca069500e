"""Judge: the held-out scores of a student, on fixed seeds. A plain class; `actors.crew.pool` makes an actor of it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from marval_ray.config import GuardConfig
from marval_ray.device import worker_device
from marval_ray.evaluation.evaluators import load_evaluator
from marval_ray.evaluation.scores import Scores
from marval_ray.families.base import FamilyConfig
from marval_ray.families.generation import student_generation
from marval_ray.files.flat import unpack
from marval_ray.files.images import to_pixels
from marval_ray.types import Prompts, Weights

PICTURES = 10


@dataclass(frozen=True)
class Look:
    """Scores of a student at each of `guard.loops`, and its pictures of the first PICTURES prompts at the first of them.

    Pictures of two looks differ by the student alone.
    """

    scores: tuple[Scores, ...]
    pictures: UInt8[np.ndarray, "P H W C"]


class Judge:
    """Samples the student that it is handed, for all prompts in turn, and measures it with the frozen evaluator."""

    def __init__(
        self, config: FamilyConfig, codec: Path, classifier: Path, reference: Path, prompts: Prompts, guard: GuardConfig,
        texts: Path | None = None, threads: int = 1,
    ):  # fmt: skip
        device = worker_device(threads)
        self.model = config.family.build(config).eval().requires_grad_(False).to(device)
        self.generation = student_generation(self.model, config.family.codec(codec, config).to(device), texts=texts)
        self.evaluator = load_evaluator(classifier, reference)
        self.prompts, self.guard = prompts.in_turn(guard.samples), guard

    def start(self) -> None:
        """Answer, which takes a worker whose constructor is done."""

    def measure(self, weights: Weights) -> Look:
        """Score `guard.samples` images at each N_AR."""
        unpack(weights, dict(self.model.named_parameters()))
        drawn = [self.generation.with_loops(loops).images(self.prompts, self.guard.seed) for loops in self.guard.loops]
        scores = tuple(self.evaluator.score(images, self.prompts) for images in drawn)
        return Look(scores, to_pixels(drawn[0][:PICTURES]))
