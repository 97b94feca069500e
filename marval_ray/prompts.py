"""Prompts: what a reward reads beside an image."""

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Int64
from torch import Tensor

from marval_ray.files.text import read_text
from marval_ray.types import Prompts

TEMPLATE = "A harmonious and high quality image of {}"


def imagenet_names() -> tuple[str, ...]:
    """Return the names of ImageNet's 1,000 classes in the order of their folders, which is that of MAR's labels."""
    from torchvision.models import ResNet50_Weights  # takes seconds, and few need it

    return tuple(ResNet50_Weights.DEFAULT.meta["categories"])


def class_prompts(names: Sequence[str], template: str = TEMPLATE) -> list[str]:
    """Return the prompt of each class. Raises ValueError when `template` has no {}."""
    if "{}" not in template:
        raise ValueError(f"prompt template {template!r} lacks {{}}, the place of the class name")
    return [template.format(name) for name in names]


def read_prompts(path: Path, num_classes: int) -> list[str]:
    """Read the prompt of each class from a text file with a line for each. Raises ValueError when their number differs."""
    prompts = _lines(path)
    if len(prompts) != num_classes:
        raise ValueError(f"{path} has {len(prompts)} prompts, the model has {num_classes} classes: one line a class")
    return prompts


def read_prompts_of(path: Path, labels: Int64[Tensor, " N"]) -> Prompts:
    """Return the prompts of images that are there already: line c of the text file is that of the label c.

    Raises ValueError when a label has no line.
    """
    prompts = _lines(path)
    outside = labels[(labels < 0) | (labels >= len(prompts))]
    if len(outside):
        raise ValueError(f"{path} has {len(prompts)} prompts, but there are images of class {outside[0].item()}: one line a class, from 0")
    return Prompts.of_classes(prompts)[labels.tolist()]


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise ValueError(f"there is no prompt file at {path}")
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]
