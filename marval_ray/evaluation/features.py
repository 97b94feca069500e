"""Networks in whose features images are compared. No stage trains on them."""

from collections.abc import Iterable
from pathlib import Path

from marval_ray.evaluation.classifier import Classifier
from marval_ray.evaluation.network import FeatureNetwork
from marval_ray.evaluation.residual import ResidualClassifier
from marval_ray.evaluation.scene_classifiers import PlainSceneClassifier, ResidualSceneClassifier
from marval_ray.files.fit import load_strictly
from marval_ray.files.tensors import StateDict, read_state

ARCHITECTURES: dict[str, type[FeatureNetwork]] = {"plain": Classifier, "residual": ResidualClassifier}
SCENE_ARCHITECTURES: dict[str, type[FeatureNetwork]] = {"plain": PlainSceneClassifier, "residual": ResidualSceneClassifier}
ALL = (*ARCHITECTURES.values(), *SCENE_ARCHITECTURES.values())


def load_features(path: Path, architectures: Iterable[type[FeatureNetwork]] = ALL) -> FeatureNetwork:
    """Read a frozen network; names and shapes of its tensors tell which of `architectures` it is.

    Raises ValueError when the file cannot be read or fits none.
    """
    state = read_state(path)
    model = min((make() for make in architectures), key=lambda one: len(shapes(one.state_dict()) ^ shapes(state)))
    load_strictly(model, state, path)
    return model.eval().requires_grad_(False)


def shapes(state: StateDict) -> set[tuple[str, tuple[int, ...]]]:
    """Return names and shapes of tensors."""
    return {(name, tuple(value.shape)) for name, value in state.items()}
