"""Train a judge of scenes: its classifier, its statistics of held-out scenes, and how often it is right about them.

    python jobs/embedded/train_scene_judge.py     # judge A's first pass; docs/embedded.md has all
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from tqdm import tqdm

from marval_ray import cli
from marval_ray.config import check_at_least, check_seed
from marval_ray.embedded.degradations import DEGRADATIONS
from marval_ray.embedded.scene_pairs import drawn
from marval_ray.evaluation.features import SCENE_ARCHITECTURES, load_features
from marval_ray.evaluation.network import FeatureNetwork
from marval_ray.evaluation.scene_classifiers import by_attribute
from marval_ray.evaluation.scene_scores import places_of, read_scenes, shares
from marval_ray.evaluation.statistics import Statistics
from marval_ray.files.atomic import write_json
from marval_ray.files.fit import load_strictly, save_weights
from marval_ray.files.tensors import read_state


@dataclass(frozen=True)
class Config:
    out: Path = Path("runs/scene-judge")
    init: Path | None = None
    """Weights to begin with, of the same architecture; another seed draws other scenes."""
    architecture: Literal["plain", "residual"] = "plain"
    degradations: tuple[Literal["noise", "blur", "texture"], ...] = ("noise",)
    """In turn, one of these spoils half of the pictures of an update, as models do."""
    steps: int = 2000
    batch: int = 96
    lr: float = 3e-3
    samples: int = 10000
    """Held-out scenes to measure it on, and to take statistics of."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_at_least(1, self, "steps", prefix="--")
        check_at_least(2, self, "batch", "samples", prefix="--")


def main(config: Config) -> None:
    torch.manual_seed(config.seed)
    model = SCENE_ARCHITECTURES[config.architecture]()
    if config.init:
        load_strictly(model, read_state(config.init), config.init)
    config.out.mkdir(parents=True, exist_ok=True)  # a wrong place shows before minutes of work
    train(model, config)
    classifier = config.out / "classifier.safetensors"
    save_weights(classifier, model.state_dict(), torch.float16)
    images, scenes = drawn(0, 0, config.samples, "held-out")
    asked = places_of(scenes)
    features, seen = read_scenes(load_features(classifier), images)
    statistics = Statistics.of(features, asked[:, 0])
    replace(statistics, features=statistics.features.half()).save(config.out / "reference.safetensors")
    figures = shares(seen == asked)
    write_json(config.out / "figures.json", {"samples": config.samples} | figures)
    print("right about held-out scenes:", ", ".join(f"{name} {share:.4f}" for name, share in figures.items()))


def train(model: FeatureNetwork, config: Config) -> None:
    """Train on scenes that are drawn once each; the loss is the sum of the cross entropies of the four attributes."""
    generator = torch.Generator().manual_seed(config.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, config.steps)
    for step in (bar := tqdm(range(config.steps), desc="scene judge")):
        images, scenes = drawn(config.seed, step * config.batch, config.batch, "train")
        if config.degradations:
            degrade = DEGRADATIONS[config.degradations[step % len(config.degradations)]]
            images[::2] = degrade(images[::2], generator)
        read = zip(by_attribute(model(images)[1]), places_of(scenes).T)
        value = torch.stack([F.cross_entropy(logits, targets) for logits, targets in read]).sum()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
        bar.set_postfix(loss=f"{value.item():.3f}", refresh=False)


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
