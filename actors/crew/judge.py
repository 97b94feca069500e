"""Judge: the held-out scores of a student, on fixed seeds. A plain class; `actors.crew.pool` makes an actor of it."""

from pathlib import Path

from marval_ray.config import GuardConfig
from marval_ray.device import worker_device
from marval_ray.evaluation.scores import Evaluator, Scores
from marval_ray.families.base import FamilyConfig
from marval_ray.families.generation import student_generation
from marval_ray.files.flat import unpack
from marval_ray.types import Prompts, Weights


class Judge:
    """Samples the student that it is handed, for all prompts in turn, and measures it with the frozen evaluator."""

    def __init__(
        self, config: FamilyConfig, codec: Path, classifier: Path, reference: Path, prompts: Prompts, guard: GuardConfig,
        threads: int = 1,
    ):  # fmt: skip
        device = worker_device(threads)
        self.model = config.family.build(config).eval().requires_grad_(False).to(device)
        self.generation = student_generation(self.model, config.family.codec(codec, config).to(device), guard.loops)
        self.evaluator = Evaluator.load(classifier, reference)
        self.prompts, self.guard = prompts.in_turn(guard.samples), guard

    def start(self) -> None:
        """Answer, which takes a worker whose constructor is done."""

    def measure(self, weights: Weights) -> Scores:
        """Score `guard.samples` images."""
        unpack(weights, dict(self.model.named_parameters()))
        return self.evaluator.score(self.generation.images(self.prompts, self.guard.seed), self.prompts.labels)
