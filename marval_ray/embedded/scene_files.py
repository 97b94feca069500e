"""Parquet of scenes, as jobs/embedded/prepare_scenes.py writes it."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import UInt8

from marval_ray.files.images import decode_image
from marval_ray.scenes.scene import Scene


def load_scenes(path: Path) -> tuple[UInt8[np.ndarray, "N 64 64 3"], list[Scene]]:
    """Return the pictures of a file and what is to be seen in each. Raises ValueError when it is missing or holds no scenes."""
    if not path.is_file():
        raise ValueError(f"{path} is missing: `python jobs/embedded/prepare_scenes.py` draws scenes")
    table = pq.read_table(path)
    words = [field.name for field in fields(Scene)]
    missing = {"image", *words} - set(table.column_names)
    if missing:
        raise ValueError(f"{path} holds no scenes: it lacks the column(s) {sorted(missing)}")
    pictures = [decode_image(cell.as_py()["bytes"]) for cell in table["image"]]
    return np.stack(pictures), [Scene(**row) for row in table.select(words).to_pylist()]
