"""What there is to encode, listed before any work starts."""

import hashlib
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

_SPLITS = {
    "train": "train", "training": "train",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
}  # fmt: skip


@dataclass(frozen=True)
class ImageSet(ABC):
    """Images of classes, in the order in which they are encoded.

    labels: from 0. names: of the classes, where they have some. left_out: numbers of files or rows by reason.
    """

    labels: Int64[np.ndarray, " N"]
    names: tuple[str, ...] | None
    left_out: Counter[str]

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def tables(self, start: int) -> list[pa.Table]:
        """Tell where the images from number `start` on lie, for workers that read them."""

    @staticmethod
    def read(task: pa.Table) -> Iterator[pa.Table]:
        """Read what one of `tables` names; paths of files are read where they are decoded."""
        yield task

    def read_here(self) -> Iterator[pa.Table]:
        """Yield all images in this process, some at a time, as workers have them."""
        for task in self.tables(0):
            yield from self.read(task)

    @abstractmethod
    def pick(self, numbers: Int64[np.ndarray, " M"]) -> Self:
        """Return the images of these numbers, which rise."""

    @abstractmethod
    def places(self, stop: int) -> bytes:
        """Tell where the first `stop` images lie, as bytes that differ for other places."""

    def digest(self, stop: int, settings: str) -> str:
        """Name the first `stop` images, their labels and `settings` by hex digits."""
        return hashlib.sha256(settings.encode() + self.places(stop) + self.labels[:stop].tobytes()).hexdigest()


def split_of(name: str) -> str | None:
    """Return the split that a file's or folder's name tells: "train", "validation" or "test".

    >>> split_of("data/train-00000-of-00002.parquet")
    'train'
    """
    words = re.findall(r"[a-z]+", name.lower())
    return next((_SPLITS[word] for word in words if word in _SPLITS), None)


def some(names: list[str]) -> str:
    """Name the first few of `names`, and say how many there are besides."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def summary(images: ImageSet, latents: Counter[int | str], bad: int, prompts: bool = False) -> str:
    """Say in one line how many images were read, what was left out and why, and how many latents each class has, or how many prompts."""
    left_out = images.left_out + Counter({"that cannot be encoded": bad})
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in left_out.most_common())
    shown = f"{len(latents):,} prompts" if prompts else _classes(images.names, latents)
    return f"{latents.total():,} latents of {len(images):,} images; left out: {reasons or 'nothing'}; {shown}"


def _classes(names: tuple[str, ...] | None, latents: Counter[int | str]) -> str:
    """Return a count for each class, or its range when there are many."""
    labels = sorted(map(int, latents)) if names is None else list(range(len(names)))
    titles = [str(label) if names is None else f"{label} {names[label]}" for label in labels]
    counts = [latents[label] for label in labels]
    if len(labels) <= 20:
        return "classes: " + ", ".join(f"{title} ({count:,})" for title, count in zip(titles, counts))
    return f"{len(labels):,} classes of {min(counts):,} to {max(counts):,}, {titles[0]} to {titles[-1]}"
