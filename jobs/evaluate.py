"""Score images: Frechet distance (FD) to the reference, class accuracy, within-class diversity, images/s.

    python jobs/evaluate.py --per-label 200 --n-ar 4
    python jobs/evaluate.py --teacher --per-label 50
    python jobs/evaluate.py --npz samples.npz

FD falls with the number of images: compare equal numbers only.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from marval_ray import cli
from marval_ray.config import check_at_least
from marval_ray.embedded import assets_index
from marval_ray.evaluation.judges import Judges
from marval_ray.evaluation.scores import check_count
from marval_ray.evaluation.sweep import Row, measure
from marval_ray.files.atomic import check_out, write_json
from marval_ray.files.images import read_npz, to_tensor
from marval_ray.source import Source, defaults
from marval_ray.types import Prompts


@dataclass(frozen=True)
class Config(Source):
    npz: Path | None = None
    """Score the images of this file (jobs/sample.py --out NAME.npz) instead of drawing some."""
    classifier: Path = assets_index.CLASSIFIER
    reference: Path = assets_index.REFERENCE
    """Judge A's feature statistics of the real images that samples are compared with."""
    classifier_b: Path | None = assets_index.CLASSIFIER_B
    """Judge B, whose figures end in _b; None leaves it out."""
    reference_b: Path | None = assets_index.REFERENCE_B
    sets: int = 1
    """Deal the images out to so many sets of one size, and score each: means, and standard errors as names that end in _se."""
    out: Path | None = None
    """Also write the figures to this JSON file."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(1, self, "sets", prefix="--")


def main(config: Config) -> None:
    if config.out:
        check_out(config.out)
    judges = Judges.load((config.classifier, config.reference), (config.classifier_b, config.reference_b))
    row = score_file(config.npz, judges, config.sets) if config.npz else score_model(config, judges)
    print(json.dumps(row))
    if config.out:
        write_json(config.out, row)


def score_file(path: Path, judges: Judges, sets: int) -> Row:
    pixels, labels = read_npz(path)
    images, classes = to_tensor(pixels), torch.from_numpy(labels.astype("int64"))
    try:
        scores = judges.score(images, classes, sets)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    warn(judges, classes)
    return scores


def score_model(config: Config, judges: Judges) -> Row:
    generation = config.generation()
    labels = config.label_tensor(generation.model.config.num_classes)
    judges.a.check_labels(labels)  # before they are drawn
    check_count(len(labels), config.sets)
    name = "teacher" if config.teacher else "student"
    row, _ = measure(name, generation, Prompts.of_labels(labels), config.seed, judges, config.sets)
    warn(judges, labels)
    return row


def warn(judges: Judges, labels: Tensor) -> None:
    for caveat in judges.a.caveats(labels):
        print(f"warning: {caveat}", file=sys.stderr)


if __name__ == "__main__":
    cli.run(main, Config, __doc__, defaults(Config))
