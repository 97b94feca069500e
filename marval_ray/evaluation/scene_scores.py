"""Scores of pictures of scenes: whether they show the object, the count, the side and the background that their prompt asks for.

As GenEval's detector does (arXiv 2310.11513), on pictures whose every scene is known.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from marval_ray.evaluation.frechet import frechet_distance
from marval_ray.evaluation.kernel import kernel_distance
from marval_ray.evaluation.network import FeatureNetwork
from marval_ray.evaluation.precision_recall import recall
from marval_ray.evaluation.scene_classifiers import by_attribute
from marval_ray.evaluation.scores import Evaluator, Scores, read
from marval_ray.evaluation.statistics import Statistics
from marval_ray.scenes.scene import SIZE, Scene, attributes, read_scene
from marval_ray.types import Prompts


class SceneEvaluator(Evaluator):
    """Judges scenes, which it reads from the prompts' texts. It knows no diversity: what differs between two pictures of an object is
    mostly what was asked for."""

    CHANNELS: ClassVar[int] = 3
    SIDES: ClassVar[tuple[int, ...]] = (SIZE,)
    KNOWN: ClassVar[str] = f"scenes, colour pictures of {SIZE} x {SIZE},"

    def score(self, images: Float[Tensor, "N C H W"], prompts: Prompts) -> Scores:
        self.check_images(images)
        asked = places_of([read_scene(text) for text in prompts.texts])
        features, seen = read_scenes(self.classifier, images)
        statistics = Statistics.of(features, None)
        return Scores(
            fd=frechet_distance(statistics, self.reference),
            kid=kernel_distance(self.reference.features, statistics.features),
            recall=recall(self.reference.features, statistics.features),
            samples=len(images),
            **shares(seen == asked),
        )

    def check_prompts(self, prompts: Prompts) -> None:
        for text in prompts.texts:
            read_scene(text)

    def caveats(self, prompts: Prompts) -> list[str]:
        different, features = len(prompts.numbers.unique()), len(self.reference.mean)
        few = [f"{different} different prompts are few: FD compares them with scenes of all kinds"] if different <= features else []
        return few + super().caveats(prompts)


def places_of(scenes: Sequence[Scene]) -> Int64[Tensor, "N 4"]:
    """Return the places of the four values of each scene in `attributes`."""
    return torch.tensor([scene.places() for scene in scenes])


def read_scenes(classifier: FeatureNetwork, images: Float[Tensor, "N 3 64 64"]) -> tuple[Float[Tensor, "N F"], Int64[Tensor, "N 4"]]:
    """Return features of images in [-1, 1], and the places of the four values that the classifier sees in each."""
    features, logits = read(classifier, images)
    return features, torch.stack([part.argmax(1) for part in by_attribute(logits)], 1)


def shares(right: Bool[Tensor, "N 4"]) -> dict[str, float]:
    """Return the share of images in which each attribute is right, by name, and as `accuracy` that in which all four are."""
    found = dict(zip(attributes(), right.double().mean(0).tolist()))
    return found | {"accuracy": right.all(1).double().mean().item()}
