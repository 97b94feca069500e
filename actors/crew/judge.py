"""Judge: the held-out scores of a student, on fixed seeds. A plain class; `actors.crew.pool` makes an actor of it."""

from pathlib import Path

from actors.crew.rollout import own_device
from marval_ray.config import GuardConfig, ModelConfig
from marval_ray.evaluation.scores import Evaluator, Scores
from marval_ray.families.generate import class_labels, student_generation
from marval_ray.families.mar.codec import load_vae
from marval_ray.families.mar.model import MAR
from marval_ray.files.flat import unpack
from marval_ray.types import Weights


class Judge:
    """Samples the student that it is handed, and measures it with the frozen evaluator."""

    def __init__(
        self, config: ModelConfig, vae: Path, classifier: Path, reference: Path, guard: GuardConfig, threads: int = 1
    ):
        device = own_device(threads)
        self.model = MAR(config).eval().requires_grad_(False).to(device)
        self.generation = student_generation(self.model, load_vae(vae).to(device), guard.loops)
        self.evaluator = Evaluator.load(classifier, reference)
        self.guard = guard

    def start(self) -> None:
        """Answer, which takes a worker whose constructor is done."""

    def look(self, weights: Weights) -> Scores:
        """Scores of `guard.samples` images."""
        unpack(weights, dict(self.model.named_parameters()))
        labels = class_labels(self.model.config.num_classes, self.guard.samples)
        return self.evaluator.score(self.generation.images(labels, self.guard.seed), labels)
