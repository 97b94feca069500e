"""FD and KID of real training images by both judges, by number of images: the floor under the figures of any generator.

FD falls with the number of images, KID's mean does not.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from marval_ray import cli
from marval_ray.embedded.shipped_judges import CLOTHES
from marval_ray.evaluation.judges import Judges
from marval_ray.evaluation.metrics import BY_JUDGE, error_of, markdown_table
from marval_ray.files.images import read_images, to_tensor
from marval_ray.types import Prompts


@dataclass(frozen=True)
class Config:
    images: Path = Path("data/fashion-mnist/train.parquet")
    """Made by jobs/embedded/prepare_fashion_mnist.py."""
    sizes: tuple[int, ...] = (500, 2_000, 10_000)
    sets: int = 3


def main(config: Config) -> None:
    judges = Judges.load(*CLOTHES)
    pixels, classes = read_images(config.images)
    lines = []
    for size in config.sizes:
        count = size * config.sets
        figures = judges.score(to_tensor(pixels[:count]), Prompts.of_labels(torch.from_numpy(classes[:count].copy())), config.sets)
        known = {name: metric for name, metric in BY_JUDGE.items() if name in figures}
        lines.append([f"{size:,}", *(metric.text(figures[name], figures.get(error_of(name))) for name, metric in known.items())])
    print(markdown_table(["images", *(metric.title for metric in known.values())], lines))


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
