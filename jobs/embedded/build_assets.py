"""Write the embedded default from what was trained: models, a slice of images and latents, reference statistics."""

from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq
import torch

from marval_ray import cli
from marval_ray.embedded import assets_index
from marval_ray.evaluation.features import load_features
from marval_ray.evaluation.scores import read
from marval_ray.evaluation.statistics import Statistics
from marval_ray.families.mar.autoencoder import KLVAE, load_vae
from marval_ray.files.atomic import atomic_path, write_json
from marval_ray.files.fit import save_weights
from marval_ray.files.images import read_images, to_tensor
from marval_ray.files.places import portable
from marval_ray.hub.exported import Index
from marval_ray.hub.layout import described, load_model


@dataclass(frozen=True)
class Config:
    data: Path = Path("data/fashion-mnist")
    vae: Path = Path("runs/vae-robust")
    teacher: Path = Path("runs/teacher/teacher.safetensors")
    run: Path | None = None
    """A run of jobs/distill.py with both stages; without it the students that are there stay."""
    images: int = 8000
    """How many of the first training images (and their latents) are shipped."""


def main(config: Config) -> None:
    vae = load_vae(config.vae)
    assert isinstance(vae, KLVAE)  # it is what train_vae.py writes
    vae.autoencoder.save_pretrained(assets_index.VAE, safe_serialization=True)
    write_model(config.teacher, assets_index.TEACHER)
    if config.run:
        write_model(config.run / "student.safetensors", assets_index.STUDENT)
        write_model(config.run / "student-gsim.safetensors", assets_index.GSIM_STUDENT)
        Index.read(config.run).write(assets_index.STUDENT.parent)
    slice_parquet(config.data / "latents-train.parquet", assets_index.LATENTS, config.images)
    slice_parquet(config.data / "train.parquet", assets_index.IMAGES, config.images)
    pixels, labels = read_images(config.data / "test.parquet")
    for classifier, reference in ((assets_index.CLASSIFIER, assets_index.REFERENCE), (assets_index.CLASSIFIER_B, assets_index.REFERENCE_B)):
        features, _ = read(load_features(classifier), to_tensor(pixels))
        statistics = Statistics.of(features, torch.from_numpy(labels.copy()))
        replace(statistics, features=statistics.features.half()).save(reference)


def write_model(source: Path, target: Path) -> None:
    """Write half-precision weights, and a config that names the autoencoder."""
    model = load_model(source)
    save_weights(target, model.state_dict(), torch.float16)
    write_json(target.parent / "config.json", described(model.config) | {"vae": portable(assets_index.VAE)})


def slice_parquet(source: Path, target: Path, rows: int) -> None:
    """Copy the first `rows` rows in row groups of 500."""
    table = pq.read_table(source).slice(0, rows)
    with atomic_path(target) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=500)


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
