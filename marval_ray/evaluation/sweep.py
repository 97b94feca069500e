"""Figures of a model against the number of AR loops."""

import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

from jaxtyping import Float, Int64
from torch import Tensor

from marval_ray.evaluation.scores import Evaluator
from marval_ray.families.generate import Generation, class_labels

Row = dict[str, Any]
"""model, n_ar, fd, accuracy, diversity, recall, samples, images_per_second."""


def measure(
    name: str, generation: Generation, labels: Int64[Tensor, " N"], seed: int, evaluator: Evaluator
) -> tuple[Row, Float[Tensor, "N C H W"]]:
    """Draw an image for each label; their scores, the speed (decoding included), and the images themselves."""
    begin = time.perf_counter()
    images = generation.images(labels, seed, progress=f"{name} N_AR={generation.loops}")
    seconds = time.perf_counter() - begin
    scores = asdict(evaluator.score(images, labels))
    return {"model": name, "n_ar": generation.loops, **scores, "images_per_second": len(labels) / seconds}, images


def measure_loops(
    name: str, generation: Generation, labels: Int64[Tensor, " N"], seed: int, evaluator: Evaluator,
    loops: Iterable[int],
) -> list[Row]:  # fmt: skip
    """One row for each number of AR loops."""
    return [measure(name, replace(generation, loops=n), labels, seed, evaluator)[0] for n in loops]


def best(rows: list[Row]) -> Row:
    """The row of the lowest FD."""
    return min(rows, key=lambda row: row["fd"])


def fastest(rows: list[Row], fd: float) -> Row | None:
    """The fastest row of an FD no worse than `fd`."""
    good = [row for row in rows if row["fd"] <= fd]
    return max(good, key=lambda row: row["images_per_second"]) if good else None


def images_per_second(generation: Generation, num_classes: int) -> float:
    """Speed of one full batch, decoding included."""
    labels = class_labels(num_classes, generation.batch)
    begin = time.perf_counter()
    generation.images(labels, seed=0, progress=f"speed N_AR={generation.loops}")
    return generation.batch / (time.perf_counter() - begin)
