"""Image files to latents in two parts, plain classes that Ray Data spreads over a cluster.

`Decoder` needs a CPU only, `Encoder` holds the autoencoder. Batches are dictionaries of arrays with one row an image.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image

from marval_ray.images import to_tensor
from marval_ray.models.vae import load_vae

Batch = dict[str, np.ndarray]


@dataclass(frozen=True)
class Decoder:
    """Encoded images (PNG, JPEG, ...) to squares of `size` pixels.

    channels: 1 (grey) or 3 (RGB); images of another kind are converted.
    fit: "pad" puts a smaller image on a black square, centred; "crop" scales the shorter side to `size` and cuts out
    the centre, as ADM prepares ImageNet (Dhariwal and Nichol, arXiv 2105.05233).
    """

    size: int
    channels: Literal[1, 3]
    fit: Literal["pad", "crop"]

    def __call__(self, batch: Batch) -> Batch:
        """`path`, or `image` with a file's bytes, to `pixels` (N, S, S, C) uint8; `label` stays, as int64.

        Raises ValueError when an image cannot be decoded or is too large to be padded.
        """
        labels = batch["label"].astype(np.int64)
        if "path" in batch:
            sources = [(path, f"{path}") for path in batch["path"]]
        else:
            sources = [(io.BytesIO(image), f"an image with label {y}") for image, y in zip(batch["image"], labels)]
        return {"pixels": np.stack([self._pixels(source, name) for source, name in sources]), "label": labels}

    def _pixels(self, source: str | io.BytesIO, name: str) -> np.ndarray:
        try:
            with Image.open(source) as file:
                image = file.convert("L" if self.channels == 1 else "RGB")
        except (OSError, SyntaxError, ValueError) as error:  # Pillow reports damage by any of these
            raise ValueError(f"{name} cannot be decoded: {error}") from error
        if self.fit == "pad" and max(image.size) > self.size:
            raise ValueError(
                f"{name} has {image.width} x {image.height} pixels, too many to pad to {self.size}: use --fit crop"
            )
        square = pad(image, self.size) if self.fit == "pad" else centre_crop(image, self.size)
        return np.asarray(square).reshape(self.size, self.size, self.channels)


def pad(image: Image.Image, size: int) -> Image.Image:
    """`image` on a black square, as `marval_ray.images.pad_to` places it."""
    square = Image.new(image.mode, (size, size))
    square.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
    return square


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """The central square at `size` pixels: halved by box averages while that leaves enough, then bicubic."""
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


class Encoder:
    """Pixels to posterior moments of the latents.

    flip: each image is followed by its mirror image, under the same label.
    """

    def __init__(self, vae: Path, device: str, flip: bool = False):
        self.vae = load_vae(vae).to(device)
        self.device = device
        self.flip = flip

    def __call__(self, batch: Batch) -> Batch:
        """`pixels` (N, H, W, C) uint8 and `label` to `mean` and `std` (N, c * h * w) float16 and `label` int64."""
        images = to_tensor(batch["pixels"]).to(self.device)
        views = [images, images.flip(-1)] if self.flip else [images]
        moments = [self.vae.encode(view) for view in views]
        return {
            "mean": _rows([m.mean for m in moments]),
            "std": _rows([m.std for m in moments]),
            "label": np.repeat(batch["label"], len(views)),
        }


def _rows(views: list[torch.Tensor]) -> np.ndarray:
    """V tensors (N, ...) as (N * V, size) float16, the views of an image side by side."""
    stacked = torch.stack(views, dim=1)
    return stacked.flatten(0, 1).flatten(1).half().cpu().numpy()
