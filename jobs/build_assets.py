"""Write the embedded default from what was trained: teacher, a slice of images and latents, reference statistics."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import torch

from marval_ray import assets_index, cli
from marval_ray.files import atomic_path
from marval_ray.images import read_images, to_tensor
from marval_ray.metrics import Statistics, classify
from marval_ray.models.classifier import load_classifier
from marval_ray.weights import load_model, save_model


@dataclass(frozen=True)
class Config:
    data: Path = Path("data/fashion-mnist")
    teacher: Path = Path("runs/teacher/teacher.safetensors")
    images: int = 8000
    """How many of the first training images (and their latents) are shipped."""


def main(config: Config) -> None:
    teacher = load_model(config.teacher)
    save_model(assets_index.TEACHER.parent, "teacher", teacher.state_dict(), teacher.config, torch.float16)
    slice_parquet(config.data / "latents-train.parquet", assets_index.LATENTS, config.images)
    slice_parquet(config.data / "train.parquet", assets_index.IMAGES, config.images)
    pixels, labels = read_images(config.data / "test.parquet")
    features, _ = classify(load_classifier(assets_index.CLASSIFIER), to_tensor(pixels))
    Statistics.of(features, torch.from_numpy(labels.copy())).save(assets_index.REFERENCE)


def slice_parquet(source: Path, target: Path, rows: int) -> None:
    """Copy the first `rows` rows in row groups of 500."""
    table = pq.read_table(source).slice(0, rows)
    with atomic_path(target) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=500)


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
