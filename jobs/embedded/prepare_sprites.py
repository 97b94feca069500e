"""Draw the emoji that jobs/embedded/emoji.txt names as sprites, of which scenes are composed.

    python jobs/embedded/prepare_sprites.py     # of Debian's package fonts-noto-color-emoji; the sprites that ship
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

from marval_ray import cli
from marval_ray.files.text import read_text
from marval_ray.scenes.sprites import SHIPPED, SIZE, Sprite, write_sprites

LIST = Path(__file__).parent / "emoji.txt"
FAMILY = "Noto Color Emoji"
PIXELS = 109
"""The one size in which the font has pictures, 136 x 128 with their margins."""
NAMES = {"copyright": 0, "font": 4, "version": 5, "license": 13}
"""Names that a font has of itself, by their numbers in OpenType."""


@dataclass(frozen=True)
class Config:
    font: Path = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
    """Noto Color Emoji with bitmaps (Debian: apt-get install fonts-noto-color-emoji)."""
    out: Path = SHIPPED


def main(config: Config) -> None:
    font = open_font(config.font)
    about = {name: font.get_sfnt()[3, 1, 1033, number].decode("utf-16-be") for name, number in NAMES.items()}
    painter = ImageFont.truetype(str(config.font), PIXELS)
    objects = list(read_list(LIST))
    missing = [emoji for emoji, *_ in objects if not font.get_char_index(ord(emoji))]
    if missing:
        raise ValueError(f"{config.font} ({about['version']}) has no {' '.join(missing)}: a newer version has them")
    write_sprites(config.out, (Sprite(name, plural, emoji, draw(painter, emoji)) for emoji, name, plural in objects), about)
    print(f"{config.out}: {len(objects)} sprites, {config.out.stat().st_size / 1e6:.2f} MB")


def open_font(path: Path) -> FT2Font:
    """Open the font to look into it. Raises ValueError when it is another one, or none."""
    cure = "apt-get install fonts-noto-color-emoji, or name its file by --font"
    try:
        font = FT2Font(str(path))
    except (RuntimeError, FileNotFoundError) as error:
        raise ValueError(f"{path} is no font: {cure}") from error
    if font.family_name != FAMILY or not font.num_fixed_sizes:
        raise ValueError(f"{path} is {font.family_name}, not {FAMILY} in bitmaps: {cure}")
    return font


def read_list(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (emoji, name, plural) from lines of "emoji name/plural, ...", of which the plural may be missing."""
    lines = [line for line in read_text(path).splitlines() if line and not line.startswith("#")]
    for entry in ", ".join(lines).split(", "):
        emoji, words = entry.split(" ", 1)
        name, _, plural = words.partition("/")
        yield emoji, name, plural or plural_of(name)


def plural_of(name: str) -> str:
    """Return the plural of regular English words: "owls", "foxes", "ponies"."""
    if re.search(r"(s|x|z|ch|sh)$", name):
        return f"{name}es"
    return re.sub(r"(?<![aeiou])y$", "ie", name) + "s"


def draw(font: ImageFont.FreeTypeFont, emoji: str) -> Image.Image:
    """Return the picture of an emoji without its margins, centred in a square of SIZE."""
    large = Image.new("RGBA", (2 * PIXELS, 2 * PIXELS))
    ImageDraw.Draw(large).text((0, 0), emoji, font=font, embedded_color=True)
    large = large.crop(large.getbbox())
    scale = SIZE / max(large.size)
    small = large.resize((round(large.width * scale), round(large.height * scale)), Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (SIZE, SIZE))
    square.paste(small, ((SIZE - small.width) // 2, (SIZE - small.height) // 2))
    return square


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
