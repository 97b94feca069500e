"""What may be said of two models: a difference counts beyond two standard errors, and by both judges."""

from collections.abc import Mapping
from typing import Any

from marval_ray.evaluation.metrics import Metric, by_b, error_of

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
