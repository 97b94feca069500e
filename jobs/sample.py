"""Draw images from a student or a teacher: a PNG grid, a folder of PNG files, or an .npz for evaluation.

    python jobs/sample.py --labels 0-9 --per-label 8 --out grid.png
    python jobs/sample.py --checkpoint runs/distill --n-ar 8 --out pictures
    python jobs/sample.py --teacher --labels 0-9 --per-label 200 --seed 1 --out teacher.npz

Image i depends on the seed, i and its class alone, whatever the batch.
"""

from dataclasses import dataclass
from mimetypes import guess_type
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from marval_ray import cli
from marval_ray.class_names import known_names
from marval_ray.files.atomic import atomic_path, check_out
from marval_ray.files.images import encode_png, to_pixels, write_npz
from marval_ray.runs import report
from marval_ray.source import Source, defaults
from marval_ray.types import Prompts

SUFFIXES = (".png", ".npz")


@dataclass(frozen=True)
class Config(Source):
    out: Path = Path("samples.png")
    """NAME.png: a grid with a row for each class. NAME.npz: arr_0 uint8 (N, H, W, C) and arr_1 labels, as ADM writes
    them. A name that is none of a file: a folder with a PNG file for each image."""

    def __post_init__(self) -> None:
        super().__post_init__()
        names_file = self.out.suffix in SUFFIXES
        if not names_file and (self.out.is_file() or self.out.suffix == ".npy" or guess_type(self.out.name)[0]):
            raise ValueError(f"--out {self.out} names a file: end the name in {' or '.join(SUFFIXES)}, or name a folder")
        if not names_file and self.out.is_dir() and any(self.out.iterdir()):
            raise ValueError(f"--out {self.out} is a folder that is not empty: name another one")
        check_out(self.out if names_file else self.out / "image.png")


def main(config: Config) -> None:
    generation = config.generation()
    classes = generation.model.config.num_classes
    labels = config.label_tensor(classes)
    images = generation.images(Prompts.of_labels(labels), config.seed, progress=f"N_AR={generation.loops}")
    names = known_names(config.weights, classes) or [f"class {label}" for label in range(classes)]
    write(config.out, images, labels, [names[label] for label in labels[:: config.per_label].tolist()])
    print(f"{config.out}: {len(images)} images")


def write(out: Path, images: Float[Tensor, "N C H W"], labels: Tensor, rows: list[str]) -> None:
    """Write in the form that the name asks for; `rows` are the titles of a grid's rows."""
    if out.suffix == ".npz":
        write_npz(out, to_pixels(images), labels.numpy())
    elif out.suffix == ".png":
        report.save_grid(out, images, len(images) // len(rows), rows)
    else:
        for index, (pixels, label) in enumerate(zip(to_pixels(images), labels.tolist())):
            with atomic_path(out / f"{index:06d}_class{label}.png") as temporary:
                temporary.write_bytes(encode_png(pixels))


if __name__ == "__main__":
    cli.run(main, Config, __doc__, defaults(Config))
