"""Scenes: what is to be seen on a picture, in which words people ask for it, and which of them are held out.

One to three objects at a side of a coloured background. One of ten combinations of object, count, side and background is held out of
training, so that a model can be asked for what it never saw, while it saw each of the four alone.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any, Literal

from marval_ray.scenes.sprites import NUMBERS, sprites, with_article

SIZE = 64
"""Pixels of a side of a picture."""
COUNTS = (1, 2, 3)
SIDES = {"left": "on the left", "right": "on the right", "top": "at the top", "bottom": "at the bottom"}
BACKGROUNDS = {
    "pink": (250, 190, 205), "orange": (255, 200, 140), "yellow": (252, 236, 150), "green": (178, 222, 165), "blue": (165, 208, 245),
    "purple": (208, 186, 238), "grey": (196, 200, 205), "brown": (205, 175, 148),
}  # fmt: skip
"""Colours, soft enough that each object stands out."""
PHRASINGS = (
    "{objects} on {a_colour} background, {side}",
    "{objects} {at_side} of {a_colour} background",
    "{a_colour} background with {objects} {at_side}",
    "{at_side}: {objects}, {colour} background",
    "a picture of {objects} {at_side}, in front of {colour}",
    "{number} {names}, {side}, {colour}",
)
"""How people ask for a scene; reports use the first."""
HELD_OUT = 10
"""One of so many combinations is held out."""

Split = Literal["train", "held-out"]


@dataclass(frozen=True)
class Scene:
    """What is to be seen. object: the name of a sprite. count: 1 to 3. side, background: of SIDES and BACKGROUNDS."""

    object: str
    count: int
    side: str
    background: str

    def prompt(self, phrasing: int = 0) -> str:
        """Return the text that asks for it, in one of PHRASINGS."""
        sprite = sprites()[self.object]
        return PHRASINGS[phrasing].format(
            objects=sprite.counted(self.count), number=NUMBERS[self.count], names=sprite.named(self.count),
            side=self.side, at_side=SIDES[self.side], colour=self.background, a_colour=with_article(self.background),
        )  # fmt: skip

    @property
    def split(self) -> Split:
        """Say whether it may be trained on: always the same, by a hash of what it is."""
        words = f"{self.object} {self.count} {self.side} {self.background}"
        number = int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "big")
        return "train" if number % HELD_OUT else "held-out"

    def places(self) -> list[int]:
        """Return the place of each of its four values in `attributes`."""
        return [values.index(getattr(self, name)) for name, values in attributes().items()]


@cache
def attributes() -> dict[str, tuple[Any, ...]]:
    """Return what a scene is made of, by the names of its fields: all values of each."""
    return {"object": tuple(sprites()), "count": COUNTS, "side": tuple(SIDES), "background": tuple(BACKGROUNDS)}


@cache
def _scenes_by_prompt() -> dict[str, Scene]:
    scenes = [Scene(*values) for values in product(*attributes().values())]
    return {scene.prompt(phrasing): scene for scene in scenes for phrasing in range(len(PHRASINGS))}


def read_scene(text: str) -> Scene:
    """Return the scene that a text asks for in one of PHRASINGS: the inverse of `Scene.prompt`. Raises ValueError for other texts."""
    scene = _scenes_by_prompt().get(text)
    if scene is None:
        raise ValueError(f"{text!r:.80} asks for no scene, as {next(iter(_scenes_by_prompt()))!r} does: docs/embedded.md has the words")
    return scene
