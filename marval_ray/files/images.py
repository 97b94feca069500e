"""Image tensors, PNG bytes and Parquet of images. Image tensors are (N, C, H, W), float32 in [-1, 1]."""

import io
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from marval_ray.files.atomic import atomic_path
from marval_ray.files.decoding import decode


def to_tensor(pixels: UInt8[np.ndarray, "N H W C"]) -> Float[Tensor, "N C H W"]:
    """Turn uint8 pixels into [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pixels(images: Float[Tensor, "N C H W"]) -> UInt8[np.ndarray, "N H W C"]:
    """Turn [-1, 1] into uint8 pixels, rounded and clipped."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()


def pad_to(images: Float[Tensor, "N C H W"], size: int) -> Float[Tensor, "N C S S"]:
    """Pad with black to size x size, centred; images that are already that large come back as they are."""
    rows, columns = size - images.shape[-2], size - images.shape[-1]
    edges = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
    return torch.nn.functional.pad(images, edges, value=-1.0)


def crop_to(images: Float[Tensor, "N C H W"], size: int) -> Float[Tensor, "N C h w"]:
    """Cut out the centre of size x size, which undoes `pad_to`; smaller images come back as they are."""
    top, left = (max(0, (length - size) // 2) for length in images.shape[-2:])
    return images[..., top : top + size, left : left + size]


def encode_png(pixels: UInt8[np.ndarray, "H W C"]) -> bytes:
    return encode_image(pixels, "PNG", optimize=True)


def encode_image(pixels: UInt8[np.ndarray, "H W C"], form: str, **options: Any) -> bytes:
    """Return the pixels as a file of the format `form`; `options` are Pillow's."""
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(buffer, form, **options)
    return buffer.getvalue()


def decode_image(content: bytes) -> UInt8[np.ndarray, "H W C"]:
    """Return the pixels of an encoded image (PNG, JPEG, ...) as it is seen: one channel for grey images, three otherwise.

    Raises ValueError when it cannot be decoded.
    """
    pixels = np.asarray(decode(io.BytesIO(content)))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def write_images(path: Path, pixels: Iterable[np.ndarray], labels: np.ndarray) -> None:
    """Write Parquet with the columns `image` (PNG bytes) and `label` (int64)."""
    table = pa.table({"image": [encode_png(p) for p in pixels], "label": pa.array(labels, pa.int64())})
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", compression_level=19)


def write_npz(path: Path, pixels: UInt8[np.ndarray, "N H W C"], labels: np.ndarray) -> None:
    """Write `arr_0` (pixels) and `arr_1` (labels), the form that ADM's evaluation reads."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, pixels, labels)


def read_npz(path: Path) -> tuple[UInt8[np.ndarray, "N H W C"], np.ndarray]:
    """Read pixels and labels of a file that `write_npz` wrote. Raises ValueError when it is not one."""
    try:
        with np.load(path, allow_pickle=False) as content:
            pixels, labels = content["arr_0"], content["arr_1"]
    except (KeyError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:  # TypeError: the array of an .npy
        reason = "it holds one array" if isinstance(error, TypeError) else error
        raise ValueError(f"{path} is not an .npz with arr_0 (images) and arr_1 (labels): {reason}") from error
    if pixels.ndim != 4 or pixels.dtype != np.uint8 or labels.shape != (len(pixels),) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"{path}: arr_0 is {pixels.dtype} {pixels.shape}, arr_1 {labels.dtype} {labels.shape}; "
            "uint8 (N, H, W, C) and integers (N,) fit"
        )
    return pixels, labels


def read_images(path: Path) -> tuple[UInt8[np.ndarray, "N H W C"], np.ndarray]:
    """Read pixels and labels (N,) int64 of Parquet written by `write_images`. Raises ValueError on missing columns."""
    table = pq.read_table(path)
    missing = {"image", "label"} - set(table.column_names)
    if missing:
        raise ValueError(f"{path} lacks the column(s) {sorted(missing)}; it has {table.column_names}")
    pixels = np.stack([decode_image(content.as_py()) for content in table["image"]])
    return pixels, table["label"].to_numpy()
