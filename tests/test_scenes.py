"""Scenes of emoji: what is in them is what their prompts say, the same everywhere."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from commands import refuse, succeed

from marval_ray.embedded import assets_index
from marval_ray.embedded.sprites import SIZE, read_sprites, sprites, with_article

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
SPRITES = "jobs/embedded/prepare_sprites.py"


def test_hundreds_of_sprites_ship_with_their_licence():
    assert len(sprites()) > 300
    assert {(sprite.image.mode, sprite.image.size) for sprite in sprites().values()} == {("RGBA", (SIZE, SIZE))}
    assert len({sprite.plural for sprite in sprites().values()}) == len({sprite.emoji for sprite in sprites().values()}) == len(sprites())
    about = pq.read_schema(assets_index.SPRITES).metadata
    assert b"SIL Open Font License, Version 1.1" in about[b"license"] and about[b"version"].startswith(b"Version 2.042")
    assert assets_index.SPRITES.stat().st_size < 2e6


def test_no_two_sprites_look_the_same():
    """On grey, in 18 pixels: the root mean square of their difference, of 255."""
    small = np.stack([on_grey(sprite.image.resize((18, 18))) for sprite in sprites().values()]).reshape(len(sprites()), -1)
    squares = (small**2).sum(1)
    distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * small @ small.T, 0) / small.shape[1])
    assert distances[~np.eye(len(small), dtype=bool)].min() > 20


def on_grey(image) -> np.ndarray:
    pixels = np.asarray(image, dtype=np.float64)
    return pixels[..., :3] * pixels[..., 3:] / 255 + 200 * (1 - pixels[..., 3:] / 255)


@pytest.mark.parametrize(
    ("name", "one", "three"),
    [
        ("fox", "a fox", "three foxes"), ("owl", "an owl", "three owls"), ("octopus", "an octopus", "three octopuses"),
        ("mouse", "a mouse", "three mice"), ("butterfly", "a butterfly", "three butterflies"), ("monkey", "a monkey", "three monkeys"),
        ("sheep", "a sheep", "three sheep"), ("unicorn", "a unicorn", "three unicorns"), ("hourglass", "an hourglass", "three hourglasses"),
        ("open umbrella", "an open umbrella", "three open umbrellas"), ("T-shirt", "a T-shirt", "three T-shirts"),
        ("slice of pizza", "a slice of pizza", "three slices of pizza"), ("orange heart", "an orange heart", "three orange hearts"),
    ],
)  # fmt: skip
def test_objects_are_counted_as_people_do(name, one, three):
    assert [sprites()[name].counted(count) for count in (1, 3)] == [one, three]


def test_articles_are_spoken():
    assert [with_article(word).split()[0] for word in ("umbrella", "uniform", "hour", "house", "Apple")] == ["an", "a", "an", "a", "an"]


@pytest.mark.skipif(not FONT.exists(), reason="needs Debian's fonts-noto-color-emoji")
def test_sprites_are_drawn_again_to_the_same_pixels(tmp_path):
    succeed(SPRITES, "--out", tmp_path / "sprites.parquet")
    again = read_sprites(tmp_path / "sprites.parquet")
    assert list(again) == list(sprites())
    assert all(again[name].image.tobytes() == sprite.image.tobytes() for name, sprite in sprites().items())


def test_another_font_is_refused(tmp_path):
    assert "is no font: apt-get install fonts-noto-color-emoji" in refuse(SPRITES, "--font", __file__, "--out", tmp_path / "x")
    assert not list(tmp_path.iterdir())
