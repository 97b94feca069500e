"""Turn Fashion-MNIST's IDX files into Parquet: train.parquet, test.parquet (PNG bytes and labels)."""

from dataclasses import dataclass
from pathlib import Path

from marval_ray import cli
from marval_ray.embedded.fashion_mnist import DEBIAN_FOLDER, read_split
from marval_ray.files.images import write_images


@dataclass(frozen=True)
class Config:
    source: Path = DEBIAN_FOLDER
    """Folder with the four *-ubyte.gz files (Debian: apt-get install dataset-fashion-mnist)."""
    out: Path = Path("data/fashion-mnist")
    limit: int | None = None
    """Keep the first LIMIT images of each split."""


def main(config: Config) -> None:
    for split in ("train", "test"):
        images, labels = read_split(config.source, split)
        write_images(config.out / f"{split}.parquet", images[: config.limit, ..., None], labels[: config.limit])
        print(f"{config.out / split}.parquet: {len(labels[: config.limit])} images")


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
