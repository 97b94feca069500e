"""What the guard saw of the student, over time: a file for each look."""

from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from marval_ray.files.atomic import atomic_path
from marval_ray.files.images import decode_image, encode_png, to_tensor

LOOKS = "looks"
"""The folder, in that of a run."""
MOST = 12
"""Looks side by side in a report."""


def save_look(folder: Path, step: int, pictures: UInt8[np.ndarray, "P S S C"]) -> None:
    """Write pictures of the student after `step` updates, one below the other, as a PNG file."""
    with atomic_path(folder / LOOKS / f"{step:06d}.png") as temporary:
        temporary.write_bytes(encode_png(np.concatenate(list(pictures))))


def read_looks(folder: Path) -> dict[int, Float[Tensor, "P C S S"]]:
    """Read the pictures of at most MOST looks, evenly chosen, the first and the last among them, by the finished updates."""
    paths = sorted((folder / LOOKS).glob("*.png"))
    chosen = [paths[round(place)] for place in np.linspace(0, len(paths) - 1, min(MOST, len(paths)))]
    return {int(path.stem): _read(path) for path in chosen}


def _read(path: Path) -> Float[Tensor, "P C S S"]:
    column = decode_image(path.read_bytes())
    return to_tensor(column.reshape(-1, column.shape[1], *column.shape[1:]).copy())
