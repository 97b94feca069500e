"""Image tensors, PNG bytes and Parquet of images. Image tensors are (N, C, H, W), float32 in [-1, 1]."""

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from marval_ray.files import atomic_path


def to_tensor(pixels: UInt8[np.ndarray, "N H W C"]) -> Float[Tensor, "N C H W"]:
    """uint8 pixels to [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pixels(images: Float[Tensor, "N C H W"]) -> UInt8[np.ndarray, "N H W C"]:
    """[-1, 1] to uint8 pixels, rounded and clipped."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()


def pad_to(images: Float[Tensor, "N C H W"], size: int) -> Float[Tensor, "N C S S"]:
    """Pad with black to size x size, centred; images that are already that large come back as they are."""
    rows, columns = size - images.shape[-2], size - images.shape[-1]
    edges = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
    return torch.nn.functional.pad(images, edges, value=-1.0)


def encode_png(pixels: UInt8[np.ndarray, "H W C"]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def decode_image(content: bytes) -> UInt8[np.ndarray, "H W C"]:
    """Pixels of an encoded image (PNG, JPEG, ...): one channel for grey images, three otherwise."""
    image = Image.open(io.BytesIO(content))
    pixels = np.asarray(image if image.mode == "L" else image.convert("RGB"))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def write_images(path: Path, pixels: Iterable[np.ndarray], labels: np.ndarray) -> None:
    """Write Parquet with the columns `image` (PNG bytes) and `label` (int64)."""
    table = pa.table({"image": [encode_png(p) for p in pixels], "label": pa.array(labels, pa.int64())})
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", compression_level=19)


def read_images(path: Path) -> tuple[UInt8[np.ndarray, "N H W C"], np.ndarray]:
    """Pixels and labels (N,) int64 of Parquet written by `write_images`. Raises ValueError on missing columns."""
    table = pq.read_table(path)
    missing = {"image", "label"} - set(table.column_names)
    if missing:
        raise ValueError(f"{path} lacks the column(s) {sorted(missing)}; it has {table.column_names}")
    pixels = np.stack([decode_image(content.as_py()) for content in table["image"]])
    return pixels, table["label"].to_numpy()
