"""Networks in whose features images are compared. No stage trains on them."""

from pathlib import Path

from marval_ray.evaluation.classifier import Classifier
from marval_ray.evaluation.network import FeatureNetwork
from marval_ray.evaluation.residual import ResidualClassifier
from marval_ray.files.fit import load_strictly
from marval_ray.files.tensors import read_state

ARCHITECTURES: dict[str, type[FeatureNetwork]] = {"plain": Classifier, "residual": ResidualClassifier}


def load_features(path: Path, architectures: dict[str, type[FeatureNetwork]] = ARCHITECTURES) -> FeatureNetwork:
    """Read a frozen network; the names of its tensors tell which of `architectures` it is.

    Raises ValueError when the file cannot be read or fits none.
    """
    state = read_state(path)
    networks = [make() for make in architectures.values()]
    model = next((one for one in networks if one.state_dict().keys() == state.keys()), networks[0])
    load_strictly(model, state, path)
    return model.eval().requires_grad_(False)
