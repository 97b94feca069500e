"""Rewards by name: `[WEIGHT*]KIND:PLACE`, such as `pickscore:models/pickscore` or `0.5*clip:models/clip`."""

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from marval_ray.files.places import resolve
from marval_ray.rewards.base import Reward, WeightedSum


@dataclass(frozen=True)
class Spec:
    weight: float
    kind: str
    place: str

    @classmethod
    def parse(cls, text: str) -> "Spec":
        """Read `text`. Raises ValueError when it is not of the form or its kind is unknown."""
        weight, star, rest = text.partition("*")
        kind, colon, place = (rest if star else text).partition(":")
        try:
            number = float(weight) if star else 1.0
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(f"reward {text!r}: {weight!r} is no number; write WEIGHT*KIND:PLACE")
        if kind not in KINDS or not colon or not place:
            raise ValueError(f"reward {text!r} is not [WEIGHT*]KIND:PLACE with KIND one of {', '.join(KINDS)}")
        return cls(number, kind, place)


def reward_names(texts: Sequence[str], option: str = "--rewards") -> dict[str, str]:
    """Return the rewards of an option by what their figures are called: by kind, a plug-in by its class.

    Raises ValueError for two of one name.
    """
    named: dict[str, str] = {}
    for text in texts:
        spec = Spec.parse(text)
        name = spec.place.rpartition(":")[2].lower() if spec.kind == "plugin" else spec.kind
        if name in named:
            raise ValueError(f"{option} {named[name]!r} and {text!r} are of one kind: their figures would have one name")
        named[name] = text
    return named


def held_out_names(texts: Sequence[str]) -> dict[str, str]:
    """Return rl.held_out_rewards by what their figures are called in summaries. Raises ValueError as `reward_names` does."""
    return {f"held_out_{name}": text for name, text in reward_names(texts, "rl.held_out_rewards").items()}


def check_rewards(texts: Sequence[str]) -> None:
    """Raise ValueError when one of `texts` is malformed, or names files or a plug-in that cannot be loaded.

    Files are looked through, but no memory is taken for their weights.
    """
    for spec in map(Spec.parse, texts):
        if spec.kind == "plugin":
            find_plugin(spec.place)
        else:
            reward_class(spec.kind).check(files_of(spec))


def load_reward(texts: Sequence[str], device: torch.device | str = "cpu") -> Reward:
    """Load the weighted sum of the rewards `texts`. Raises ValueError when one of them cannot be read."""
    specs = [Spec.parse(text) for text in texts]
    rewards = tuple(map(load_one, specs))
    for reward in rewards:
        if isinstance(reward, torch.nn.Module):
            reward.to(device)
    return WeightedSum(rewards, tuple(spec.weight for spec in specs), tuple(texts))


def load_one(spec: Spec) -> Reward:
    """Load the reward of `spec`, without its weight. Raises ValueError when it cannot be read."""
    if spec.kind == "plugin":
        return load_plugin(spec.place)
    options = {"scale": 100.0} if spec.kind == "clip" else {}
    return reward_class(spec.kind).load(files_of(spec), **options)


def files_of(spec: Spec) -> Path:
    """Return the file or folder of a reward. Raises ValueError when there is none: a name on the Hub is not fetched."""
    place, published = resolve(spec.place), PUBLISHED_AT[spec.kind]
    if not place.exists():
        raise ValueError(
            f"reward {spec.kind}: there is nothing at {spec.place}, and nothing is fetched here: "
            f"`python jobs/fetch.py {published.parts[1]}` gives {spec.kind}:{published}"
        )
    return place


def load_plugin(place: str) -> Reward:
    """Load `module:function`: the function is called without arguments and returns a Reward.

    Raises ValueError when there is no such function, or what it returns is no reward.
    """
    make = find_plugin(place)
    try:
        reward = make()
    except SystemExit as end:  # a worker would end with it, and be started again for ever
        raise ValueError(f"reward plug-in {place} ends its process with {end.code}: let it raise an error instead") from end
    if not callable(reward) or not hasattr(reward, "differentiable"):
        raise ValueError(f"reward plug-in {place} returns {reward!r:.80}: a reward can be called and has `differentiable`")
    return reward


def find_plugin(place: str) -> Callable[[], Reward]:
    """Find the function that makes the reward. Raises ValueError when there is none."""
    module, _, name = place.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, SyntaxError, ValueError) as error:
        raise ValueError(f"reward plug-in {place!r}: {error}; write plugin:MODULE:FUNCTION") from error


def reward_class(kind: str) -> Any:
    """Import the class of the rewards of `kind`, only when there is one: transformers and open_clip take seconds."""
    module, name = CLASSES[kind]
    return getattr(importlib.import_module(f"marval_ray.rewards.{module}"), name)


CLASSES = {
    "pickscore": ("clip", "CLIPReward"),
    "clip": ("clip", "CLIPReward"),
    "hpsv2": ("hps", "HPSReward"),
    "image_reward": ("image_reward", "ImageReward"),
}
"""Module and class of each kind that is read from files. Beside what a `Reward` has, the class has `load(place)` and `check(place)`."""
PUBLISHED_AT = {
    "pickscore": Path("models/pickscore"),
    "clip": Path("models/clip"),
    "hpsv2": Path("models/hpsv2/HPS_v2.1_compressed.pt"),
    "image_reward": Path("models/image-reward"),
}
"""Where jobs/fetch.py puts the published reward of each kind: models/NAME."""
KINDS = (*CLASSES, "plugin")
