"""Train the evaluation classifier on Fashion-MNIST; it measures samples and is never part of a training signal."""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tqdm import tqdm

from marval_ray import cli
from marval_ray.config import check_seed
from marval_ray.evaluation.classifier import Classifier
from marval_ray.files.atomic import atomic_path
from marval_ray.files.images import read_images, to_tensor


@dataclass(frozen=True)
class Config:
    train: Path = Path("data/fashion-mnist/train.parquet")
    test: Path = Path("data/fashion-mnist/test.parquet")
    out: Path = Path("runs/classifier.safetensors")
    epochs: int = 8
    batch: int = 128
    lr: float = 3e-3
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)


def main(config: Config) -> None:
    torch.manual_seed(config.seed)
    pixels, labels = read_images(config.train)
    images, targets = to_tensor(pixels), torch.from_numpy(labels.copy())
    model = Classifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=1e-2)
    steps = config.epochs * (len(images) // config.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, steps)
    for _ in tqdm(range(steps), desc="classifier"):
        rows = torch.randint(len(images), (config.batch,))
        batch = images[rows]
        batch = torch.where(torch.rand(len(rows), 1, 1, 1) < 0.5, batch.flip(-1), batch)
        value = F.cross_entropy(model(batch)[1], targets[rows])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
    model.eval()
    pixels, labels = read_images(config.test)
    with torch.no_grad():
        predicted = torch.cat([model(part)[1].argmax(-1) for part in to_tensor(pixels).split(500)])
    print(f"test accuracy {(predicted == torch.from_numpy(labels.copy())).float().mean():.4f}")
    with atomic_path(config.out) as temporary:
        save_file(model.state_dict(), temporary)


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
