"""What may be said of two models: a difference counts beyond two standard errors, and by both judges."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int64
from torch import Tensor

from marval_ray.evaluation.bootstrap import mean_and_error
from marval_ray.evaluation.metrics import REWARD_FORM, Metric, by_b, error_of, with_error

ERRORS = 2.0
"""Standard errors of the difference that a claim takes."""
Row = Mapping[str, Any]


def better(figures: Row, others: Row, metric: Metric) -> bool:
    """Return whether the first are better in this metric by more than ERRORS standard errors, in the eyes of every judge of both.

    The two draw other noise, so their errors are independent. Nothing is claimed of figures without an error.
    """
    names = [name for name in (metric.name, by_b(metric.name)) if name in figures and name in others]
    return all(_beyond(figures, others, name, metric.better == "higher") for name in names)


def _beyond(figures: Row, others: Row, name: str, higher: bool) -> bool:
    error = error_of(name)
    if error not in figures or error not in others:
        return False
    gain = figures[name] - others[name] if higher else others[name] - figures[name]
    return gain > ERRORS * (figures[error] ** 2 + others[error] ** 2) ** 0.5


@dataclass(frozen=True)
class PairedDifference:
    """Mean of what a reward gives the first model's images less what it gives the second's of the same seeds and prompts."""

    reward: str
    n_ar: int
    models: tuple[str, str]
    mean: float
    error: float | None
    """By the bootstrap over prompts."""
    prompts: int
    images: int

    @classmethod
    def of(
        cls, reward: str, n_ar: int, models: tuple[str, str], differences: Float[Tensor, " N"], prompts: Int64[Tensor, " N"]
    ) -> "PairedDifference":
        """Take it of the differences of N pairs of images; `prompts` are the numbers of theirs."""
        return cls(reward, n_ar, models, *mean_and_error(differences, prompts), len(prompts.unique()), len(prompts))

    def said(self) -> str:
        """Say which model the reward prefers, if it is known to, and by how much."""
        winner, loser = self.models if self.mean > 0 else self.models[::-1]
        known = self.error is not None and abs(self.mean) > ERRORS * self.error
        verdict = f"{winner} is better than {loser}" if known else f"{winner} and {loser} are not told apart"
        by = with_error(abs(self.mean), self.error, REWARD_FORM)
        return f"{self.reward} at N_AR = {self.n_ar}: {verdict} ({by}, paired, {self.images} images of {self.prompts} prompts)."
