"""Grids of images as PNG: small images are enlarged by whole pixels, so that nothing is smoothed."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from marval_ray.files.atomic import atomic_path
from marval_ray.files.images import to_pixels

CELL = 84
"""Small images grow towards this many pixels: 28 x 28 ones by 3."""
GAP = 3
SPACE = 18
"""Pixels between the grids of a comparison."""
FONT_SIZE = 18
LINE = 30
PAPER, INK = (255, 255, 255), (20, 20, 20)


def wrapped(text: str) -> str:
    """Return a text as the label of a row, in lines of LINE characters at most."""
    return textwrap.fill(text, LINE)


def save_grid(
    path: Path, images: Float[Tensor, "N C H W"], columns: int, row_labels: Sequence[str] | None = None
) -> None:
    """Write images in [-1, 1] (C = 1 or 3) row by row as a PNG, with a label in front of each row."""
    _save(path, _join([tile(images, columns)], None, row_labels))


def save_comparison(
    path: Path, grids: dict[str, Float[Tensor, "N C H W"]], columns: int, row_labels: Sequence[str] | None = None
) -> None:
    """Write grids side by side under their titles, as a PNG; equal places should show equal classes and seeds."""
    _save(path, _join([tile(images, columns) for images in grids.values()], list(grids), row_labels))


def tile(images: Float[Tensor, "N C H W"], columns: int) -> Image.Image:
    """Make one picture of ceil(N / columns) rows, GAP pixels apart."""
    pixels = to_pixels(images)
    factor = max(1, round(CELL / pixels.shape[1]))
    pixels = pixels.repeat(factor, axis=1).repeat(factor, axis=2)
    count, height, width, _ = pixels.shape
    rows = -(-count // columns)
    canvas = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), PAPER, np.uint8)
    for index, image in enumerate(pixels):
        y, x = index // columns * (height + GAP), index % columns * (width + GAP)
        canvas[y : y + height, x : x + width] = image
    return Image.fromarray(canvas)


def _join(blocks: list[Image.Image], titles: list[str] | None, row_labels: Sequence[str] | None) -> Image.Image:
    """Put blocks side by side, titles above them, row labels at the left."""
    font = ImageFont.load_default(FONT_SIZE)
    lines = [line for label in row_labels or () for line in label.splitlines()]
    left = max(int(font.getlength(line)) for line in lines) + SPACE if lines else 0
    top = 2 * FONT_SIZE if titles else 0
    widths = [max(block.width, int(font.getlength(title))) for block, title in zip(blocks, titles or [""] * len(blocks))]
    height = max(block.height for block in blocks)
    page = Image.new("RGB", (left + sum(widths) + SPACE * (len(blocks) - 1), top + height), PAPER)
    draw, x = ImageDraw.Draw(page), left
    for number, block in enumerate(blocks):
        page.paste(block, (x, top))
        if titles:
            draw.text((x + block.width / 2, top / 2), titles[number], INK, font, anchor="mm")
        x += widths[number] + SPACE
    labels = row_labels or ()
    for number, label in enumerate(labels):
        middle = top + (number + 0.5) * (height + GAP) / len(labels) - GAP / 2
        draw.text((left - SPACE / 2, middle), label, INK, font, anchor="rm")
    return page


def _save(path: Path, picture: Image.Image) -> None:
    with atomic_path(path) as temporary:
        picture.save(temporary, "PNG", optimize=True)
