"""Scenes of emoji: what is in them is what their prompts say, the same everywhere."""

import hashlib
import re
from collections import Counter
from itertools import combinations, product
from pathlib import Path
from random import Random

import numpy as np
import pyarrow.parquet as pq
import pytest
from commands import refuse, succeed

from marval_ray.files.find_images import find_images
from marval_ray.files.image_tables import Columns
from marval_ray.files.images import decode_image
from marval_ray.scenes.drawing import box, draw, landscape
from marval_ray.scenes.scene import BACKGROUNDS, COUNTS, PHRASINGS, SIDES, Scene, attributes, read_scene
from marval_ray.scenes.sprites import SHIPPED, SIZE, read_sprites, sprites, with_article

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
SPRITES = "jobs/embedded/prepare_sprites.py"
SCENES = "jobs/embedded/prepare_scenes.py"


def test_hundreds_of_sprites_ship_with_their_licence():
    assert len(sprites()) > 300
    assert {(sprite.image.mode, sprite.image.size) for sprite in sprites().values()} == {("RGBA", (SIZE, SIZE))}
    assert len({sprite.plural for sprite in sprites().values()}) == len({sprite.emoji for sprite in sprites().values()}) == len(sprites())
    about = pq.read_schema(SHIPPED).metadata
    assert b"SIL Open Font License, Version 1.1" in about[b"license"] and about[b"version"].startswith(b"Version 2.042")
    assert SHIPPED.stat().st_size < 2e6


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


def test_prompts_say_all_that_is_to_be_seen():
    one, two = Scene("owl", 1, "left", "orange"), Scene("fox", 2, "top", "blue")
    assert one.prompt() == "an owl on an orange background, left" and two.prompt() == "two foxes on a blue background, top"
    assert [two.prompt(number) for number in range(1, len(PHRASINGS))] == [
        "two foxes at the top of a blue background",
        "a blue background with two foxes at the top",
        "at the top: two foxes, blue background",
        "a picture of two foxes at the top, in front of blue",
        "two foxes, top, blue",
    ]


def test_a_prompt_says_its_scene_and_no_other():
    scenes = [Scene(*values) for values in product(sprites(), COUNTS, SIDES, BACKGROUNDS)]
    assert len(scenes) == 344 * 3 * 4 * 8
    for phrasing in range(len(PHRASINGS)):
        assert [read_scene(scene.prompt(phrasing)) for scene in scenes] == scenes


@pytest.mark.parametrize(
    "text", ["a red apple", "class 3", "one fox on a blue background, left", "an fox, left, blue", "two foxes, top, blue ", ""]
)
def test_a_text_that_asks_for_no_scene_is_refused_beside_one_that_does(text):
    with pytest.raises(ValueError, match=f"'{text}' asks for no scene, as '(.*)' does") as error:
        read_scene(text)
    assert read_scene(re.search("as '(.*)' does", str(error.value))[1]) == Scene("dog", 1, "left", "pink")


def test_a_scene_follows_from_seed_and_index():
    """Recorded: the pictures are the same on every machine, and whatever was drawn before."""
    parts = [draw(7, index, split) for split in ("train", "held-out") for index in (3, 0, 2, 1)]
    assert parts[0][0] == Scene("yellow heart", 2, "top", "green")
    assert parts[0][2] == "two yellow hearts on a green background, top"
    digest = hashlib.sha256(b"".join(picture.tobytes() for _, picture, _ in parts)).hexdigest()
    assert digest == "9958b6a4db6dfaceee1057dc05d2c20a86a520eca026303cbea62b35c387e5c7"
    assert len({picture.tobytes() for _, picture, _ in parts}) == 8


def test_a_tenth_of_all_combinations_is_held_out_and_no_value():
    scenes = [Scene(*values) for values in product(*attributes().values())]
    held_out = [scene for scene in scenes if scene.split == "held-out"]
    assert 0.09 < len(held_out) / len(scenes) < 0.11
    for name, values in attributes().items():
        trained = Counter(getattr(scene, name) for scene in scenes if scene.split == "train")
        assert set(trained) == set(values) and min(trained.values()) > 0.7 * len(scenes) / len(values)
    drawn = {split: [draw(0, index, split)[0] for index in range(50)] for split in ("train", "held-out")}
    assert all(scene.split == split for split in drawn for scene in drawn[split])


@pytest.mark.parametrize(("side", "count"), list(product(SIDES, COUNTS)))
def test_objects_lie_apart_and_clearly_at_their_side(side, count):
    rng = Random(0)
    for _ in range(100):
        boxes = [box(Scene("fox", count, side, "blue"), number, rng) for number in range(count)]
        for left, top, size in boxes:
            assert 0 <= left <= 64 - size and 0 <= top <= 64 - size
        centres = np.mean([(left + size / 2, top + size / 2) for left, top, size in boxes], 0) - 32
        across, along = centres if side in ("left", "right") else centres[::-1]
        assert abs(along) <= 8 < 12 <= (across if side in ("right", "bottom") else -across)
        assert all(max(abs(a[0] - b[0]), abs(a[1] - b[1])) >= min(a[2], b[2]) - 1 for a, b in combinations(boxes, 2))


def test_an_object_looks_the_same_to_all_tokens_that_it_may_cover():
    """It stands at one offset from the grid of tokens, wherever it stands."""
    rng = Random(0)
    for count in COUNTS:
        scenes = [Scene("fox", count, side, "blue") for side in SIDES for _ in range(20)]
        boxes = [box(scene, number, rng) for scene in scenes for number in range(count)]
        offsets = {(left % 8, top % 8, size) for left, top, size in boxes}
        assert len(offsets) == 1


def test_backgrounds_are_told_apart_by_their_colours():
    means = np.stack([[landscape(colour, Random(seed)).mean((0, 1)) for seed in range(20)] for colour in BACKGROUNDS.values()])
    spread = np.abs(means - means.mean(1, keepdims=True)).max()
    nearest = min(np.abs(a - b).max() for a, b in combinations(means.mean(1), 2))
    assert nearest > 2 * spread


def test_scenes_are_written_as_readers_of_images_know_them(tmp_path):
    job = (SCENES, "--train", 6, "--test", 3, "--held-out", 4, "--seed", 5)
    succeed(*job, "--out", tmp_path)
    tables = {name: pq.read_table(tmp_path / f"{name}.parquet").to_pylist() for name in ("train", "test", "held-out")}
    assert {name: len(rows) for name, rows in tables.items()} == {"train": 6, "test": 3, "held-out": 4}
    scene, picture, prompt = draw(5, 4)
    row = tables["train"][4]
    assert (row["prompt"], row["object"], row["count"], row["side"], row["background"]) == (
        prompt, scene.object, scene.count, scene.side, scene.background,
    )  # fmt: skip
    assert (decode_image(row["image"]["bytes"]) == picture).all()
    assert tables["test"][0]["prompt"] == draw(5, 6)[0].prompt()
    assert tables["held-out"][3]["prompt"] == draw(5, 3, "held-out")[0].prompt()
    found = find_images(tmp_path, Columns())
    assert len(found.labels) == 6 and found.names == tuple(sprites())
    assert "--held-out must be at least 1, got 0" in refuse(SCENES, "--held-out", 0, "--out", tmp_path / "no")
    assert not (tmp_path / "no").exists()
