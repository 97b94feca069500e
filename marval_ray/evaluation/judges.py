"""The two judges of samples: A's figures select, B's are only reported, so that nothing is chosen by what reports it."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float, Int64
from torch import Tensor

from marval_ray.evaluation.metrics import by_b
from marval_ray.evaluation.scores import Evaluator


@dataclass(frozen=True)
class Judges:
    """Evaluators that differ in architecture, seed, training crops and the layer of their features; B may be missing."""

    a: Evaluator
    b: Evaluator | None = None

    @classmethod
    def load(cls, a: tuple[Path, Path], b: tuple[Path | None, Path | None] = (None, None)) -> "Judges":
        """Read (classifier, reference statistics) of each. Raises ValueError when a file cannot be read."""
        classifier, reference = b
        return cls(Evaluator.load(*a), Evaluator.load(classifier, reference) if classifier and reference else None)

    def score(self, images: Float[Tensor, "N C H W"], labels: Int64[Tensor, " N"] | None) -> dict[str, Any]:
        """Return what A measures by the names of `Scores`, and what B measures with `_b` behind. Raises ValueError as they do."""
        scores = asdict(self.a.score(images, labels))
        if self.b is None:
            return scores
        second = asdict(self.b.score(images, labels))
        return scores | {by_b(name): value for name, value in second.items() if name != "samples"}
