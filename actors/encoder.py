"""Images to latents, or to codes and residuals, in two parts, plain classes that Ray Data spreads over a cluster.

`Decoder` needs a CPU only, `Encoder` holds the codec. Batches are dictionaries of arrays with one row an image.
"""

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from marval_ray.families.encoders import read_encoder
from marval_ray.files.decoding import cut_square, decode, pad_square, shown
from marval_ray.files.images import to_tensor

Batch = dict[str, np.ndarray]


@dataclass(frozen=True)
class Decoder:
    """Encoded images (PNG, JPEG, ...) to squares of `size` pixels.

    channels: 1 (grey) or 3 (RGB); images of another kind are converted.
    fit: "pad" puts a smaller image on a black square, centred; "crop" scales the shorter side to `size` and cuts out
    the centre. Transparent parts become black with "pad", as the border is, and white with "crop".
    """

    size: int
    channels: Literal[1, 3]
    fit: Literal["pad", "crop"]

    def __call__(self, batch: Batch) -> Batch:
        """Turn `path`, or the columns of `marval_ray.files.image_tables.SCHEMA`, into `pixels` (N, S, S, C) uint8; `label` stays.

        `fault` is a sentence about an image that cannot be encoded, whose pixels are black, and empty for all others:
        an error of a worker would end the work of all.
        """
        names = list(batch)
        squares, faults = zip(*(self._square(dict(zip(names, row))) for row in zip(*batch.values())))
        return {"pixels": np.stack(squares), "label": batch["label"], "fault": np.array(faults, dtype=object)}

    def _square(self, row: dict[str, Any]) -> tuple[np.ndarray, str]:
        black = np.zeros((self.size, self.size, self.channels), np.uint8)
        if "path" in row:
            name = shown(os.fsdecode(row["path"]))
        else:
            name = f"{shown(os.fsdecode(row['file']))} row {row['row']}"
        if row.get("fault"):
            return black, f"{name} {row['fault']}"
        try:
            return self._pixels(row), ""
        except OSError as error:
            return black, f"{name} cannot be read: {error.strerror}"
        except ValueError as error:
            return black, f"{name} {error}"

    def _pixels(self, row: dict[str, Any]) -> np.ndarray:
        with open(row["path"], "rb") if "path" in row else io.BytesIO(row["image"]) as file:
            image = decode(file, background=0 if self.fit == "pad" else 255)
        image = image.convert("L" if self.channels == 1 else "RGB")
        square = pad_square(image, self.size) if self.fit == "pad" else cut_square(image, self.size)
        return np.asarray(square).reshape(self.size, self.size, self.channels)


class Encoder:
    """Pixels to the columns of stage 1's data (`ImageEncoder`).

    flip: each image is followed by its mirror image, under the same label.
    """

    def __init__(self, vae: Path, device: str, flip: bool = False):
        self.encoder = read_encoder(vae).to(device)
        self.device = device
        self.flip = flip

    def __call__(self, batch: Batch) -> Batch:
        """Turn `pixels` (N, H, W, C) uint8 into the encoder's columns; `label` and `fault` stay."""
        images = to_tensor(batch["pixels"]).to(self.device)
        views = [images, images.flip(-1)] if self.flip else [images]
        columns = [self.encoder.columns(view) for view in views]
        return {name: _rows([view[name] for view in columns]) for name in columns[0]} | {
            name: np.repeat(batch[name], len(views)) for name in ("label", "fault")
        }


def _rows(views: list[torch.Tensor]) -> np.ndarray:
    """Return V tensors (N, size) as (N * V, size), the views of an image side by side."""
    return torch.stack(views, dim=1).flatten(0, 1).cpu().numpy()
