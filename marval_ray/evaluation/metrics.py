"""What is measured of a model, as one table: how a figure is called and written, which way is better, what it takes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from marval_ray.scenes.scene import Scene


@dataclass(frozen=True)
class Metric:
    """A figure of a model.

    name: in rows, summaries and metrics files. title: in reports. form: of its numbers, as `format` takes it. better: which
    way. needs: parts of an `Evaluator`.
    """

    name: str
    title: str
    form: str
    better: Literal["lower", "higher"]
    needs: tuple[str, ...] = ()

    @property
    def held_out(self) -> str:
        """What the judge's figure is called among the metrics of RL."""
        return held_out(self.name)

    def text(self, value: float, error: float | None = None) -> str:
        """Return the number alone, or with its standard error."""
        return with_error(value, error, self.form)

    def said(self, value: float) -> str:
        """Return the number behind its title."""
        return f"{self.title} {self.text(value)}"


def with_error(value: Any, error: Any, form: str) -> str:
    """Return a value as text, with its standard error where that is not None."""
    return f"{value:{form}}" + ("" if error is None else f" ± {error:{form}}")


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [heads, ["--"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


REWARD = "reward/"
"""What the mean score of a reward is called in a row, before the reward's name."""
REWARD_FORM = ".4g"
PROMPTS = "prompts"
"""What the number of prompts is called in a row, over which the errors of rewards are."""


def rewards_in(names: Iterable[str]) -> list[str]:
    """Return those of `names` that are mean scores of rewards, each once."""
    return [name for name in dict.fromkeys(names) if name.startswith(REWARD) and not name.endswith(error_of(""))]


def by_b(name: str) -> str:
    """Return what judge B's figure is called; A's has the metric's own name."""
    return f"{name}_b"


def error_of(name: str) -> str:
    """Return what the standard error of a figure is called, which is over sets of samples."""
    return f"{name}_se"


def held_out(name: str) -> str:
    """Return what a figure of the judge is called among the metrics of RL."""
    return f"held_out/{name}"


FD = Metric("fd", "FD", ".2f", "lower", needs=("classifier", "reference"))
KID = Metric("kid", "KID", ".2f", "lower", needs=("classifier", "reference"))
ACCURACY = Metric("accuracy", "accuracy", ".3f", "higher", needs=("classifier",))
DIVERSITY = Metric("diversity", "diversity", ".3f", "higher", needs=("classifier", "reference"))
RECALL = Metric("recall", "recall", ".3f", "higher", needs=("classifier", "reference"))
ATTRIBUTES = tuple(Metric(field.name, field.name, ".3f", "higher", needs=("classifier",)) for field in fields(Scene))
"""Of scenes: shares of pictures in which object, count, side or background alone is right."""
SPEED = Metric("images_per_second", "images/s", ".4g", "higher")

SCORES = (FD, KID, ACCURACY, DIVERSITY, RECALL, *ATTRIBUTES)
"""What an `Evaluator` measures."""
REPORTED = (FD, KID, ACCURACY, *ATTRIBUTES, DIVERSITY)
"""Those of summaries and tables, where a judge knows them; recall is for the guard."""
BY_JUDGE = {
    name: replace(metric, name=name, title=title)
    for metric in REPORTED
    for name, title in ((metric.name, metric.title), (by_b(metric.name), f"{metric.title} (B)"))
}
"""The same by both judges, by their names in rows."""
