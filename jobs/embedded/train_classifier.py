"""Train a classifier on Fashion-MNIST that measures samples and is never part of a training signal.

    python jobs/embedded/train_classifier.py                                          # judge A's, which selects
    python jobs/embedded/train_classifier.py --architecture residual --shift 3 --seed 2 --out runs/classifier-b.safetensors
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from marval_ray import cli
from marval_ray.config import check_at_least, check_seed
from marval_ray.evaluation.features import ARCHITECTURES
from marval_ray.files.atomic import atomic_path
from marval_ray.files.images import read_images, to_tensor


@dataclass(frozen=True)
class Config:
    train: Path = Path("data/fashion-mnist/train.parquet")
    test: Path = Path("data/fashion-mnist/test.parquet")
    out: Path = Path("runs/classifier.safetensors")
    architecture: Literal["plain", "residual"] = "plain"
    shift: int = 0
    """Pixels by which images move at most, in both directions."""
    epochs: int = 8
    batch: int = 128
    lr: float = 3e-3
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_at_least(0, self, "shift", prefix="--")


def moved(images: Float[Tensor, "N C H W"], shift: int) -> Float[Tensor, "N C H W"]:
    """Cut images of the same size out of a black border of `shift` pixels, each at a place of its own."""
    if not shift:
        return images
    height, width = images.shape[-2:]
    rows, columns = (torch.randint(2 * shift + 1, (len(images), 1)) + torch.arange(length) for length in (height, width))
    bordered = F.pad(images, (shift,) * 4, value=-1.0)
    return bordered[torch.arange(len(images))[:, None, None], :, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)


def main(config: Config) -> None:
    torch.manual_seed(config.seed)
    pixels, labels = read_images(config.train)
    images, targets = to_tensor(pixels), torch.from_numpy(labels.copy())
    model = ARCHITECTURES[config.architecture]()
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=1e-2)
    steps = config.epochs * (len(images) // config.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, steps)
    for _ in tqdm(range(steps), desc="classifier"):
        rows = torch.randint(len(images), (config.batch,))
        batch = images[rows]
        batch = torch.where(torch.rand(len(rows), 1, 1, 1) < 0.5, batch.flip(-1), batch)
        batch = moved(batch, config.shift)
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
