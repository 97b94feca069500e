"""Draw docs/images/scenes.png: held-out scenes, each above its prompt."""

import textwrap
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from marval_ray import cli
from marval_ray.embedded.scenes import SIZE, draw
from marval_ray.files.atomic import atomic_path

COLUMNS, CELL, GAP = 8, 2 * SIZE, 8
LETTERS, LINE, LINES = 24, 12, 3
"""Letters of a line, its height in pixels, and lines under each picture."""


@dataclass(frozen=True)
class Config:
    out: Path = Path("docs/images/scenes.png")
    scenes: int = 40
    seed: int = 0


def main(config: Config) -> None:
    width, height = CELL + GAP, CELL + LINE * LINES + GAP
    page = Image.new("RGB", (COLUMNS * width, -(-config.scenes // COLUMNS) * height), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(10)
    for number in range(config.scenes):
        scene, picture, _ = draw(config.seed, number, "held-out")
        x, y = number % COLUMNS * width, number // COLUMNS * height
        page.paste(Image.fromarray(picture).resize((CELL, CELL), Image.Resampling.NEAREST), (x, y))
        pen.multiline_text((x, y + CELL + 1), textwrap.fill(scene.prompt(), LETTERS), "black", font, spacing=1)
    with atomic_path(config.out) as temporary:
        page.save(temporary, "PNG", optimize=True)


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
