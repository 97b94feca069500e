"""Measure a teacher: choose its guidance scale, then FD, accuracy and images/s against N_AR.

The figures of the embedded teacher are shipped; this is the command that made them.
"""

import shlex
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from marval_ray import assets_index, cli
from marval_ray.evaluation import Row, best, measure
from marval_ray.files import write_json
from marval_ray.generate import Generation, class_labels
from marval_ray.metrics import Evaluator
from marval_ray.models.vae import load_vae
from marval_ray.sampling import Ancestral
from marval_ray.weights import load_model


@dataclass(frozen=True)
class Config:
    checkpoint: Path = assets_index.TEACHER
    vae: Path = assets_index.VAE
    classifier: Path = assets_index.CLASSIFIER
    reference: Path = assets_index.REFERENCE
    sampler: Ancestral = field(default_factory=lambda: Ancestral(clip_x0=4.5))
    """Its cfg is replaced by the candidates."""
    cfg: tuple[float, ...] = (1.0, 1.5, 2.0, 3.0)
    """Candidates; the one of the lowest FD wins."""
    choice_samples: int = 200
    choice_loops: int = 64
    samples: int = 2000
    loops: tuple[int, ...] = (64,)
    """Measured with `samples` images and with their first 500."""
    few: int = 500
    few_loops: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    """Measured with `few` images only."""
    seed: int = 1_000
    batch: int = 100
    out: Path = assets_index.TEACHER_FIGURES


def main(config: Config) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, vae = load_model(config.checkpoint).to(device), load_vae(config.vae).to(device)
    evaluator = Evaluator.load(config.classifier, config.reference)
    generation = Generation(model, vae, config.sampler, batch=config.batch)
    choice = [at_scale(generation, cfg, evaluator, config) for cfg in config.cfg]
    sampler = replace(config.sampler, cfg=best(choice)["cfg"])
    generation = replace(generation, sampler=sampler)
    rows = [row for n in config.loops for row in both_sizes(generation, n, evaluator, config)]
    labels = class_labels(model.config.num_classes, config.few)
    for n in config.few_loops:
        rows.append(measure("teacher", replace(generation, loops=n), labels, config.seed, evaluator)[0])
    figures: dict[str, Any] = {
        "command": shlex.join(["python", "jobs/teacher_figures.py", *sys.argv[1:]]),
        "sampler": asdict(sampler),
        "choice": choice,
        "rows": rows,
    }
    write_json(config.out, figures)
    for row in choice + rows:
        print(row)


def at_scale(generation: Generation, cfg: float, evaluator: Evaluator, config: Config) -> Row:
    """Figures of `choice_samples` images at one guidance scale."""
    generation = replace(generation, sampler=replace(config.sampler, cfg=cfg), loops=config.choice_loops)
    labels = class_labels(generation.model.config.num_classes, config.choice_samples)
    row, _ = measure(f"teacher cfg={cfg}", generation, labels, config.seed, evaluator)
    return row | {"cfg": cfg}


def both_sizes(generation: Generation, loops: int, evaluator: Evaluator, config: Config) -> list[Row]:
    """Figures of `samples` images and of the first `few` of them: FD falls with the number of samples."""
    labels = class_labels(generation.model.config.num_classes, config.samples)
    row, images = measure("teacher", replace(generation, loops=loops), labels, config.seed, evaluator)
    few = evaluator.score(images[: config.few], labels[: config.few])
    return [row, row | asdict(few)]


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
