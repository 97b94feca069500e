"""Names of a model's classes, and the class that a prompt asks for."""

import re
from collections.abc import Sequence
from pathlib import Path

from marval_ray.embedded import assets_index
from marval_ray.embedded.fashion_mnist import CLASS_NAMES
from marval_ray.files.places import resolve
from marval_ray.files.text import read_json
from marval_ray.hub.exported import index_beside
from marval_ray.prompts import class_prompts, imagenet_names, read_prompts
from marval_ray.types import Prompts


def names_of(checkpoint: Path, num_classes: int, file: Path | None = None) -> tuple[str, ...]:
    """Return a name for each class: from `file` (a line for each), else those that are known.

    Raises ValueError when none are, or `file` has another number of lines.
    """
    names = tuple(read_prompts(file, num_classes)) if file else known_names(checkpoint, num_classes)
    if not names:
        raise ValueError(f"{checkpoint} has {num_classes} classes of unknown names: give a file with a name on each line")
    return names


def known_names(checkpoint: Path, num_classes: int) -> tuple[str, ...]:
    """Return the class names of model_index.json, ImageNet's or the embedded ones, or none where nobody knows them."""
    index = index_beside(checkpoint)
    if index and index.class_names:
        return index.class_names
    if num_classes == 1000:
        return imagenet_names()
    beside = checkpoint.parent / "config.json"  # not beside a published checkpoint
    config = read_json(beside) if beside.exists() else {}
    embedded = resolve(str(config.get("vae", ""))) == assets_index.VAE and num_classes == len(CLASS_NAMES)
    return CLASS_NAMES if embedded else ()


def prompts_of(checkpoint: Path, num_classes: int, file: Path | None) -> Prompts:
    """Return the prompts of all classes: from `file` (a line for each), else of the names that `names_of` finds.

    Raises ValueError as it does.
    """
    return Prompts.of_classes(read_prompts(file, num_classes) if file else class_prompts(names_of(checkpoint, num_classes)))


def find_class(text: str, names: Sequence[str]) -> int | None:
    """Return the class whose name is in `text` as whole words, singular or plural; of several the longest, then the first.

    >>> find_class("two Ankle Boots, please", ["boot", "ankle boot"])
    1
    """
    found = [
        (-len(match[0]), match.start(), label)
        for label, name in enumerate(names)
        if (match := re.search(rf"(?<![\w-]){re.escape(name)}(?:e?s)?(?![\w-])", text, re.IGNORECASE))
    ]
    return min(found)[2] if found else None
