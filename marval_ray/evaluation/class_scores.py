"""Scores of images of classes: whether a classifier sees the class that was asked for, which the label says."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from marval_ray.evaluation.frechet import frechet_distance
from marval_ray.evaluation.kernel import kernel_distance
from marval_ray.evaluation.precision_recall import recall
from marval_ray.evaluation.scores import Evaluator, Scores, read
from marval_ray.evaluation.statistics import Statistics
from marval_ray.types import Prompts


class ClassEvaluator(Evaluator):
    """Judges Fashion-MNIST's clothes by labels; of images without labels it knows neither accuracy nor diversity."""

    CHANNELS: ClassVar[int] = 1
    SIDES: ClassVar[tuple[int, ...]] = (28, 32)
    KNOWN: ClassVar[str] = "grey ones of 28 x 28, or padded to 32 x 32,"

    def score(self, images: Float[Tensor, "N C H W"], prompts: Prompts) -> Scores:
        self.check_images(images)
        self.check_prompts(prompts)
        labels, (features, logits) = prompts.labels, read(self.classifier, images)
        statistics = Statistics.of(features, labels)
        return Scores(
            fd=frechet_distance(statistics, self.reference),
            kid=kernel_distance(self.reference.features, statistics.features, self.reference.labels, statistics.labels),
            accuracy=None if labels is None else (logits.argmax(-1) == labels).double().mean().item(),
            diversity=None if labels is None else statistics.within_class_distance / self.reference.within_class_distance,
            recall=recall(self.reference.features, statistics.features),
            samples=len(images),
        )

    def check_prompts(self, prompts: Prompts) -> None:
        if prompts.labels is None:
            return
        classes = self.classifier.logits.out_features
        outside = prompts.labels[(prompts.labels < 0) | (prompts.labels >= classes)]
        if len(outside):
            raise ValueError(
                f"{len(outside)} label(s) are outside the classifier's classes 0-{classes - 1}, the first is {outside[0].item()}"
            )

    def caveats(self, prompts: Prompts) -> list[str]:
        found, classes = len(prompts.numbers.unique()), self.classifier.logits.out_features
        missing = [f"images of {found} of {classes} classes: FD compares them with images of all"] if found < classes else []
        return missing + super().caveats(prompts)
