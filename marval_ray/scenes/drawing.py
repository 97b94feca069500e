"""Pictures of scenes, 64 x 64 pixels: a scene and its picture follow from (seed, index)."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image

from marval_ray.scenes.scene import BACKGROUNDS, PHRASINGS, SIZE, Scene, Split, attributes
from marval_ray.scenes.sprites import sprites

CELL = 8
"""Pixels of a side of a cell, which is a token of the models that learn scenes: objects stand on this grid, since a model of two million
weights learns what they look like there and not at any offset."""


@dataclass(frozen=True)
class Row:
    """Where the objects of a scene may stand, by how many they are.

    room: cells of a side of the square that each stands in the middle of. size: its own side in pixels. across: least and greatest cell
    from the scene's side to the square. along: the same along that side, for each object.
    """

    room: int
    size: int
    across: tuple[int, int]
    along: tuple[tuple[int, int], ...]


ROWS = {
    1: Row(4, 28, (0, 0), ((1, 3),)),
    2: Row(3, 22, (0, 1), ((0, 1), (4, 5))),
    3: Row(2, 16, (1, 1), ((0, 0), (3, 3), (6, 6))),
}

Value = TypeVar("Value")
Picture = UInt8[np.ndarray, "64 64 3"]
Colours = Float64[np.ndarray, "64 64 3"]


def draw(seed: int, index: int, split: Split = "train") -> tuple[Scene, Picture, str]:
    """Draw scene number `index` of a split, its picture and one of its prompts: the same everywhere for (seed, index)."""
    rng = Random(f"{split} {seed} {index}")
    scene = draw_scene(rng)
    while scene.split != split:
        scene = draw_scene(rng)
    return scene, render(scene, rng), scene.prompt(pick(rng, range(len(PHRASINGS))))


def draw_scene(rng: Random) -> Scene:
    """Draw a scene of either split, each value of an attribute as often as another."""
    return Scene(**{name: pick(rng, values) for name, values in attributes().items()})


def pick(rng: Random, values: Sequence[Value]) -> Value:
    """Draw one of `values`. Python promises the numbers of `Random.random` for all its versions, those of `choice` it does not."""
    return values[int(rng.random() * len(values))]


def between(rng: Random, low: float, high: float) -> float:
    """Draw a number between two, as `pick` does."""
    return low + (high - low) * rng.random()


def render(scene: Scene, rng: Random) -> Picture:
    """Return a picture of a scene; its hill, and sizes and places of its objects, are drawn."""
    boxes = [box(scene, number, rng) for number in range(scene.count)]
    ground = landscape(BACKGROUNDS[scene.background], rng)
    for left, top, size in boxes:
        ground *= 1 - shadow(left + size / 2, top + size - 1, size)[..., None]
    picture = Image.fromarray(np.rint(ground).astype(np.uint8)).convert("RGBA")
    for left, top, size in boxes:
        picture.alpha_composite(sprites()[scene.object].image.resize((size, size), Image.Resampling.BICUBIC), (left, top))
    return np.asarray(picture.convert("RGB"))


def box(scene: Scene, number: int, rng: Random) -> tuple[int, int, int]:
    """Draw (left, top, size) of object `number`: objects stand in a row along their side."""
    row = ROWS[scene.count]
    along, across = cell(row.along[number], rng), cell(row.across, rng)
    if scene.side in ("right", "bottom"):
        across = SIZE // CELL - row.room - across
    first, second = (CELL * place + (CELL * row.room - row.size) // 2 for place in (across, along))
    return (first, second, row.size) if scene.side in ("left", "right") else (second, first, row.size)


def cell(ends: tuple[int, int], rng: Random) -> int:
    """Draw one of the cells from the first to the last."""
    return pick(rng, range(ends[0], ends[1] + 1))


def landscape(colour: tuple[int, int, int], rng: Random) -> Colours:
    """Return a sky that grows lighter towards a hill, in shades of one colour (0..255).

    Nothing but sums, products and quotients, which are the same on every machine.
    """
    rows, columns = np.arange(SIZE)[:, None] / SIZE, np.arange(SIZE)[None] / SIZE
    base = np.array([between(rng, -4, 4) + channel for channel in colour])
    peak, level, bend = between(rng, 0, 1), between(rng, 0.66, 0.8), between(rng, 0.05, 0.25)
    horizon = level + bend * (columns - peak) ** 2
    below = np.clip((rows - horizon) * SIZE + 0.5, 0, 1)[..., None]
    sky = base + (255 - base) * (0.45 * rows[..., None])
    hill = base * (0.92 - 0.12 * rows[..., None])
    return np.clip(sky * (1 - below) + hill * below, 0, 255)


def shadow(x: float, y: float, size: int) -> Float64[np.ndarray, "64 64"]:
    """Return how much light an object takes from the ground under it, 0..1: a soft flat ellipse about (x, y)."""
    rows, columns = np.arange(SIZE)[:, None], np.arange(SIZE)[None]
    distance = ((columns - x) / (0.5 * size)) ** 2 + ((rows - y) / (0.14 * size)) ** 2
    return 0.3 * np.clip(1 - distance, 0, 1)
