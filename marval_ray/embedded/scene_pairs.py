"""What the reward of scenes learns from: scenes with one word changed, and pairs of pictures of which one is preferred."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from marval_ray.embedded.degradations import DEGRADATIONS
from marval_ray.files.images import to_tensor
from marval_ray.scenes.drawing import draw, pick, render
from marval_ray.scenes.scene import Scene, Split, attributes

SPOILT = ("noise", "blur", "texture", "shuffle")
Images = Float[Tensor, "N 3 64 64"]


def drawn(seed: int, first: int, count: int, split: Split) -> tuple[Images, list[Scene]]:
    """Return the pictures of `count` scenes of a split, in [-1, 1], and the scenes."""
    scenes, pictures, _ = zip(*(draw(seed, first + number, split) for number in range(count)))
    return to_tensor(np.stack(pictures)), list(scenes)


def changed(scene: Scene, name: str, rng: Random) -> Scene:
    """Return the scene with another value of the attribute `name`, of either split."""
    return replace(scene, **{name: pick(rng, [value for value in attributes()[name] if value != getattr(scene, name)])})


def neighbour(scene: Scene, rng: Random) -> Scene:
    """Return a scene that differs in one word and may be trained on."""
    while (other := changed(scene, pick(rng, tuple(attributes())), rng)).split != "train":
        pass
    return other


def rendered(scenes: Sequence[Scene], rng: Random) -> Images:
    """Return a picture of each scene, in [-1, 1]."""
    return to_tensor(np.stack([render(scene, rng) for scene in scenes]))


@dataclass(frozen=True)
class ScenePairs:
    """Draws preference pairs of scenes.

    coarse: shows pictures as a tokenizer does from codes alone. samples: a model's pictures of some scenes of each split, or nothing.
    """

    coarse: Callable[[Images], Images]
    samples: Mapping[Split, tuple[Images, list[Scene]]]

    @property
    def kinds(self) -> tuple[str, ...]:
        """What the other picture of a pair is."""
        return (*SPOILT, "codes", "word", *(("samples",) if self.samples else ()))

    def draw(self, kind: str, seed: int, first: int, count: int, split: Split) -> tuple[Images, Images, list[Scene]]:
        """Return (preferred, other) pictures of `count` scenes and the scenes: the same everywhere for all arguments."""
        rng, generator = Random(f"{kind} {split} {seed} {first}"), torch.Generator().manual_seed((seed * 1_000_003 + first) % 2**63)
        if kind == "samples":
            pictures, asked = self.samples[split]
            rows = [pick(rng, range(len(asked))) for _ in range(count)]
            scenes = [asked[row] for row in rows]
            return rendered(scenes, rng), pictures[rows], scenes
        good, scenes = drawn(seed, first, count, split)
        if kind == "codes":
            return good, self.coarse(good), scenes
        if kind == "word":
            return good, rendered([neighbour(scene, rng) for scene in scenes], rng), scenes
        return good, DEGRADATIONS[kind](good, generator), scenes
