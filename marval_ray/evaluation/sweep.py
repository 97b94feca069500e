"""Figures of a model against the number of AR loops."""

import time
from typing import Any

from jaxtyping import Float
from torch import Tensor

from marval_ray.evaluation.judges import Judges
from marval_ray.evaluation.metrics import FD, SPEED
from marval_ray.families.generation import Painter
from marval_ray.types import Prompts

Row = dict[str, Any]
"""model, n_ar, images_per_second, and what `Judges.score` returns."""


def measure(
    name: str, painter: Painter, prompts: Prompts, seed: int, judges: Judges | None, sets: int = 1
) -> tuple[Row, Float[Tensor, "N C H W"]]:
    """Draw an image for each prompt; return the scores of so many sets of them where there are judges, the speed (decoding included),
    and the images themselves."""
    begin = time.perf_counter()
    images = painter.images(prompts, seed, progress=f"{name} N_AR={painter.loops}")
    seconds = time.perf_counter() - begin
    scores = judges.score(images, prompts, sets) if judges else {}
    return {"model": name, "n_ar": painter.loops, **scores, SPEED.name: len(prompts) / seconds}, images


def best(rows: list[Row]) -> Row:
    """Return the row of the lowest FD."""
    return min(rows, key=lambda row: row[FD.name])


def frugal(rows: list[Row], slack: float = 1.05) -> Row:
    """Return the row of the fewest loops whose FD is at most `slack` times the lowest: nearer ones are not told apart by one set."""
    lowest = best(rows)[FD.name]
    return min((row for row in rows if row[FD.name] <= slack * lowest), key=lambda row: row["n_ar"])


def images_per_second(painter: Painter, prompts: Prompts) -> float:
    """Measure the speed of one full batch, decoding included, with the prompts in turn."""
    begin = time.perf_counter()
    painter.images(prompts.in_turn(painter.batch), seed=0, progress=f"speed N_AR={painter.loops}")
    return painter.batch / (time.perf_counter() - begin)
