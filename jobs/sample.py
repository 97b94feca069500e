"""Draw images from a student or a teacher: a PNG grid, a folder of PNG files, an .npz for evaluation, or what a benchmark's tool reads.

    python jobs/sample.py --labels 0-9 --per-label 8 --out grid.png
    python jobs/sample.py --checkpoint runs/distill --n-ar 8 --out pictures
    python jobs/sample.py --teacher --labels 0-9 --per-label 200 --seed 1 --out teacher.npz
    python jobs/sample.py --checkpoint runs/dc-ar --prompt "a red apple" --per-prompt 4
    python jobs/sample.py --checkpoint runs/dc-ar --prompts evaluation_metadata.jsonl --layout geneval --per-prompt 4 --out geneval

Image i depends on the seed, i and its class or prompt alone, whatever the batch.
"""

import hashlib
from dataclasses import dataclass
from mimetypes import guess_type
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from tqdm import tqdm

from marval_ray import cli
from marval_ray.class_names import known_names
from marval_ray.families.generation import Generation
from marval_ray.files.atomic import check_out
from marval_ray.files.checksums import sha256
from marval_ray.files.images import to_pixels, write_npz
from marval_ray.layouts import LAYOUTS, Layout, write_png
from marval_ray.prompt_sets import read_set
from marval_ray.runs import report
from marval_ray.source import Source, defaults
from marval_ray.types import Prompts

SUFFIXES = (".png", ".npz")


@dataclass(frozen=True)
class Config(Source):
    prompt: tuple[str, ...] = ()
    """Of a model that reads texts: what to draw."""
    prompts: Path | None = None
    """The same from a file: .txt with a prompt on each line, .jsonl, .json, .tsv or .parquet; or a folder of .txt files, a prompt each."""
    layout: Literal["geneval", "dpg"] | None = None
    """Write a folder as the tool of GenEval or DPG-Bench reads it. The same command goes on with an interrupted one."""
    out: Path = Path("samples.png")
    """NAME.png: a grid with a row for each class or prompt. NAME.npz: arr_0 uint8 (N, H, W, C) and arr_1 labels, or numbers of prompts
    from 0, as ADM writes them. A name that is none of a file: a folder with a PNG file for each image."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompt and self.prompts:
            raise ValueError("--prompt and --prompts exclude each other")
        if self.layout and (not self.prompts or self.out.suffix in SUFFIXES):
            raise ValueError(f"--layout {self.layout} needs --prompts, and the name of a folder as --out")
        names_file = self.out.suffix in SUFFIXES
        if not names_file and (self.out.is_file() or self.out.suffix == ".npy" or guess_type(self.out.name)[0]):
            raise ValueError(f"--out {self.out} names a file: end the name in {' or '.join(SUFFIXES)}, or name a folder")
        if not names_file and self.out.is_dir() and any(self.out.iterdir()):
            raise ValueError(f"--out {self.out} is a folder that is not empty: name another one")
        check_out(self.out if names_file else self.out / "image.png")


@dataclass(frozen=True)
class Rows:
    """A grid's rows, each of so many images of one class or prompt, as `kind` says. labels: the number of each image's class or prompt."""

    kind: str
    prompts: Prompts
    labels: Int64[Tensor, " N"]
    titles: list[str]


def main(config: Config) -> None:
    layout = LAYOUTS[config.layout](read_set(config.prompts), config.per_label) if config.layout and config.prompts else None
    generation = config.generation()
    classes = generation.model.config.num_classes
    if layout and classes is None:
        lay_out(config, generation, layout)
        return
    rows = rows_of_texts(config) if classes is None else rows_of_classes(config, classes)
    images = generation.images(rows.prompts, config.seed, progress=f"N_AR={generation.loops}")
    write(config.out, images, rows)
    print(f"{config.out}: {len(images)} images")


def rows_of_classes(config: Config, classes: int) -> Rows:
    """Return what --labels asks for. Raises ValueError when prompts are given instead."""
    if config.prompt or config.prompts:
        raise ValueError(f"{config.weights} reads classes, not texts: give --labels in the place of prompts")
    labels = config.label_tensor(classes)
    names = known_names(config.weights, classes) or [f"class {label}" for label in range(classes)]
    return Rows("class", Prompts.of_labels(labels), labels, [names[label] for label in labels[:: config.per_label].tolist()])


def rows_of_texts(config: Config) -> Rows:
    """Return what --prompt or --prompts asks for. Raises ValueError when neither is given, or the file holds none."""
    if not config.prompt and not config.prompts:
        raise ValueError(f"{config.weights} reads texts: give --prompt TEXT or --prompts FILE")
    texts = read_set(config.prompts).prompts if config.prompts else Prompts(config.prompt)
    numbers = torch.arange(len(texts)).repeat_interleave(config.per_label)
    return Rows("prompt", texts.each(config.per_label), numbers, list(map(report.wrapped, texts.texts)))


def write(out: Path, images: Float[Tensor, "N C H W"], rows: Rows) -> None:
    """Write in the form that the name asks for."""
    if out.suffix == ".npz":
        write_npz(out, to_pixels(images), rows.labels.numpy())
    elif out.suffix == ".png":
        report.save_grid(out, images, len(images) // len(rows.titles), rows.titles)
    else:
        for index, (pixels, label) in enumerate(zip(to_pixels(images), rows.labels.tolist())):
            write_png(out / f"{index:06d}_{rows.kind}{label}.png", pixels)


def lay_out(config: Config, generation: Generation, layout: Layout) -> None:
    """Write the folder of a layout prompt by prompt, under another name until it is whole."""
    folder, each = unfinished(config, generation, layout), config.per_label
    numbers = range(len(layout.prompts))
    start = next((number for number in numbers if not (folder / layout.last(number)).exists()), len(numbers))
    at_once = max(1, generation.batch // each)
    with tqdm(desc=f"N_AR={generation.loops}", total=each * len(numbers), initial=each * start, unit="image") as bar:
        for first in numbers[start::at_once]:
            part = layout.prompts.prompts[first : first + at_once]
            images = generation.images(part.each(each), config.seed, first=first * each)
            for number, pixels in enumerate(np.split(to_pixels(images), len(part)), first):
                layout.write(folder, number, pixels)
            bar.update(len(images))
    for left in folder.rglob(".*.tmp"):  # of a process that was killed while it wrote
        left.unlink()
    folder.replace(config.out)
    print(f"{config.out}: {each} images of each of {len(numbers)} prompts")


def unfinished(config: Config, generation: Generation, layout: Layout) -> Path:
    """Return where a folder lies until it is whole. Its name has a hash of all that images depend on: another command has another."""
    model = sha256(config.weights), config.vae, config.texts, generation.sampler
    said = repr((model, generation.loops, config.seed, layout))
    return config.out.with_name(f"{config.out.name}.{hashlib.sha256(said.encode()).hexdigest()[:8]}.partial")


if __name__ == "__main__":
    cli.run(main, Config, __doc__, defaults(Config))
