"""Which judge a classifier's file is for."""

from pathlib import Path

from marval_ray.evaluation.class_scores import ClassEvaluator
from marval_ray.evaluation.features import ARCHITECTURES, SCENE_ARCHITECTURES, load_features
from marval_ray.evaluation.scene_scores import SceneEvaluator
from marval_ray.evaluation.scores import Evaluator
from marval_ray.evaluation.statistics import Statistics

EVALUATORS = {
    **dict.fromkeys(ARCHITECTURES.values(), ClassEvaluator),
    **dict.fromkeys(SCENE_ARCHITECTURES.values(), SceneEvaluator),
}
"""By the architecture of the classifier."""


def load_evaluator(classifier: Path, reference: Path) -> Evaluator:
    """Read a frozen classifier and the statistics of reference images. Raises ValueError when a file cannot be read or does not fit."""
    network, statistics = load_features(classifier), Statistics.load(reference)
    features, known = network.logits.in_features, len(statistics.mean)
    if features != known:
        raise ValueError(f"{reference} has statistics of {known} features, {classifier} has {features}: give two files of one judge")
    return EVALUATORS[type(network)](network, statistics)
