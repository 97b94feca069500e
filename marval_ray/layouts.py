"""Folders of images as the tools of benchmarks look for them. The tools themselves run elsewhere, on the folder."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import UInt8

from marval_ray.files.atomic import atomic_path
from marval_ray.files.images import encode_png
from marval_ray.prompt_sets import PromptSet

SIDE = 2
"""Images along a side of DPG-Bench's grids."""


class Layout(Protocol):
    """A folder of `images` pictures of each prompt."""

    @property
    def prompts(self) -> PromptSet: ...
    def last(self, number: int) -> Path:
        """Return the file in the folder that is written last of prompt `number`, 0..."""

    def write(self, folder: Path, number: int, pixels: UInt8[np.ndarray, "P H W C"]) -> None:
        """Write the images of one prompt."""


@dataclass(frozen=True)
class GenEval:
    """NUMBER/samples/IMAGE.png, and in NUMBER/metadata.jsonl the prompt's record.

    As evaluation/evaluate_images.py of github.com/djghosh13/geneval (af4902f) reads it, which takes any number of images; papers take
    four. Raises ValueError when a record lacks the tag, by which that tool counts.
    """

    prompts: PromptSet
    images: int

    def __post_init__(self) -> None:
        if not self.prompts.records or not all("tag" in record for record in self.prompts.records):
            raise ValueError('--layout geneval needs a "tag" in each record: give --prompts evaluation_metadata.jsonl, as GenEval has it')

    def last(self, number: int) -> Path:
        return Path(f"{number:05d}/metadata.jsonl")

    def write(self, folder: Path, number: int, pixels: UInt8[np.ndarray, "P H W C"]) -> None:
        for index, image in enumerate(pixels):
            write_png(folder / f"{number:05d}/samples/{index:05d}.png", image)
        with atomic_path(folder / self.last(number)) as temporary:
            temporary.write_text(json.dumps(self.prompts.records[number]) + "\n", encoding="ascii")


@dataclass(frozen=True)
class DPG:
    """NAME.png for the prompt NAME.txt: four images without gaps between them, left to right, then top to bottom.

    As dpg_bench/compute_dpg_bench.py of github.com/TencentQQGYLab/ELLA (3c228f1) cuts them apart; its RESOLUTION is the side of one
    image. It opens every file of the folder, so there is nothing else. Raises ValueError when prompts have no names, or for another
    number of images.
    """

    prompts: PromptSet
    images: int

    def __post_init__(self) -> None:
        if not self.prompts.names:
            raise ValueError("--layout dpg names images by the files of their prompts: give --prompts FOLDER, with NAME.txt in it")
        if self.images != SIDE**2:
            raise ValueError(f"--layout dpg is grids of {SIDE} x {SIDE}: give --per-prompt {SIDE**2}, not {self.images}")

    def last(self, number: int) -> Path:
        return Path(f"{self.prompts.names[number]}.png")

    def write(self, folder: Path, number: int, pixels: UInt8[np.ndarray, "P H W C"]) -> None:
        rows = [np.concatenate(list(row), axis=1) for row in np.split(pixels, SIDE)]
        write_png(folder / self.last(number), np.concatenate(rows))


LAYOUTS: dict[str, Callable[[PromptSet, int], Layout]] = {"geneval": GenEval, "dpg": DPG}


def write_png(path: Path, pixels: UInt8[np.ndarray, "H W C"]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(encode_png(pixels))
