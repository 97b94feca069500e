"""Sprites: emoji of the font Noto Color Emoji as small pictures with English names; scenes are composed of them."""

import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from marval_ray.files.atomic import atomic_path
from marval_ray.files.places import ASSETS

SHIPPED = ASSETS / "scenes" / "sprites.parquet"
"""Emoji with their names, of which scenes are composed."""
SIZE = 40
"""Rows and columns of a sprite."""
NUMBERS = ("no", "one", "two", "three")
_SPOKEN_VOWEL = re.compile(r"(?!uni)[aeiou]|hour", re.IGNORECASE)


@dataclass(frozen=True)
class Sprite:
    """A picture of an object.

    name, plural: what people call one and several. emoji: its character. image: RGBA, SIZE x SIZE, as large as fits.
    """

    name: str
    plural: str
    emoji: str
    image: Image.Image

    def counted(self, count: int) -> str:
        """Return "an owl", "two owls", "three owls"."""
        return with_article(self.name) if count == 1 else f"{NUMBERS[count]} {self.plural}"

    def named(self, count: int) -> str:
        """Return the name of one, or of several."""
        return self.name if count == 1 else self.plural


def with_article(words: str) -> str:
    """Return `words` behind "a" or "an", as they are spoken: "an owl", "a unicorn", "an hourglass"."""
    return f"{'an' if _SPOKEN_VOWEL.match(words) else 'a'} {words}"


def write_sprites(path: Path, sprites: Iterable[Sprite], about: dict[str, str]) -> None:
    """Write Parquet with the columns `name`, `plural`, `emoji` and `image` (PNG bytes); `about` becomes its metadata."""
    rows = [{"name": s.name, "plural": s.plural, "emoji": s.emoji, "image": _png(s.image)} for s in sprites]
    table = pa.Table.from_pylist(rows).replace_schema_metadata(about)
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", compression_level=19)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def read_sprites(path: Path) -> dict[str, Sprite]:
    """Read what `write_sprites` wrote, by name, in its order."""
    rows = pq.read_table(path).to_pylist()
    return {row["name"]: Sprite(row["name"], row["plural"], row["emoji"], Image.open(io.BytesIO(row["image"]))) for row in rows}


@cache
def sprites() -> dict[str, Sprite]:
    """Return those that ship."""
    return read_sprites(SHIPPED)
