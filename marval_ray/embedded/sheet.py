"""A page of pictures of scenes, each above its prompt."""

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from marval_ray.scenes.drawing import Picture
from marval_ray.scenes.scene import SIZE

COLUMNS, CELL, GAP = 8, 2 * SIZE, 8
LETTERS, LINE, LINES = 24, 12, 3
"""Letters of a line, its height in pixels, and lines under each picture."""


def sheet(pictures: Sequence[Picture], prompts: Sequence[str]) -> Image.Image:
    """Return the page, pictures twice as large as they are."""
    width, height = CELL + GAP, CELL + LINE * LINES + GAP
    page = Image.new("RGB", (COLUMNS * width, -(-len(pictures) // COLUMNS) * height), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(10)
    for number, (picture, prompt) in enumerate(zip(pictures, prompts)):
        x, y = number % COLUMNS * width, number // COLUMNS * height
        page.paste(Image.fromarray(picture).resize((CELL, CELL), Image.Resampling.NEAREST), (x, y))
        pen.multiline_text((x, y + CELL + 1), textwrap.fill(prompt, LETTERS), "black", font, spacing=1)
    return page
