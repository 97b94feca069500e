"""Score images: Frechet distance (FD) to the reference, class accuracy, within-class diversity, images/s.

    python jobs/evaluate.py --per-label 200 --n-ar 4
    python jobs/evaluate.py --teacher --per-label 50
    python jobs/evaluate.py --npz samples.npz
    python jobs/evaluate.py --per-label 50 --rewards clip:models/clip --out runs/scores.json
    python jobs/evaluate.py --checkpoint runs/dc-ar --prompts PartiPrompts.tsv --per-prompt 1 --rewards pickscore:models/pickscore

FD falls with the number of images: compare equal numbers only. Of a model that reads texts rewards alone know something.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from marval_ray import cli
from marval_ray.class_names import prompts_of
from marval_ray.config import check_at_least
from marval_ray.device import own_device
from marval_ray.embedded import assets_index
from marval_ray.evaluation.bootstrap import reward_figures
from marval_ray.evaluation.by_rewards import measure_by_rewards
from marval_ray.evaluation.judges import Judges
from marval_ray.evaluation.metrics import markdown_table
from marval_ray.evaluation.scores import check_count
from marval_ray.evaluation.sweep import Row, measure
from marval_ray.families.generation import Generation
from marval_ray.files.atomic import atomic_path, check_out, write_json
from marval_ray.files.images import read_npz, to_tensor
from marval_ray.prompt_sets import read_set
from marval_ray.prompts import read_prompts
from marval_ray.rewards import SeparateRewards
from marval_ray.runs import report
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
    rewards: tuple[str, ...] = ()
    """Score the same images with these too: KIND:PLACE, such as clip:models/clip, as --rl.rewards."""
    prompts: Path | None = None
    """What rewards read: a text file with a line for each class; by default made of the class names, which --npz does not have. Of a model
    that reads texts what is drawn, in any form that jobs/sample.py takes."""
    out: Path | None = None
    """Also write the figures to this file, NAME.json, and as a row for a table to NAME.md."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(1, self, "sets", prefix="--")
        if self.out and self.out.suffix != ".json":
            raise ValueError(f"--out {self.out}: name a file that ends in .json; the row in Markdown goes beside it")
        if self.rewards and self.npz and not self.prompts:
            raise ValueError("--rewards need to know what --npz shows: give --prompts, a text file with a line for each class")


def main(config: Config) -> None:
    if config.out:
        check_out(config.out)
        check_out(config.out.with_suffix(".md"))
    SeparateRewards.check(config.rewards)
    row = score_file(config, config.npz) if config.npz else score_model(config)
    print(json.dumps(row))
    if config.out:
        write_json(config.out, row)
        write_row(config.out.with_suffix(".md"), row)


def judges_of(config: Config) -> Judges:
    return Judges.load((config.classifier, config.reference), (config.classifier_b, config.reference_b))


def score_file(config: Config, path: Path) -> Row:
    judges = judges_of(config)
    pixels, labels = read_npz(path)
    images, classes = to_tensor(pixels), torch.from_numpy(labels.astype("int64"))
    known = judges.a.classifier.logits.out_features
    texts = read_prompts(config.prompts, known) if config.prompts else [""] * known  # which nobody reads
    rewards = SeparateRewards.load(config.rewards, own_device())
    try:
        scores = judges.score(images, classes, config.sets)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    warn(judges, classes)
    return {"model": str(path), **scores} | reward_figures(rewards(images, [texts[label] for label in classes.tolist()]), classes)


def score_model(config: Config) -> Row:
    generation = config.generation()
    classes, name = generation.model.config.num_classes, "teacher" if config.teacher else "student"
    return score_texts(config, generation, name) if classes is None else score_classes(config, generation, name, classes)


def score_classes(config: Config, generation: Generation, name: str, classes: int) -> Row:
    judges, labels = judges_of(config), config.label_tensor(classes)
    judges.a.check_labels(labels)  # before they are drawn
    check_count(len(labels), config.sets)
    rewards = SeparateRewards.load(config.rewards, generation.model.device)
    prompts = Prompts.of_labels(labels)
    if config.rewards:
        prompts = prompts_of(config.weights, classes, config.prompts)[labels.tolist()]
    row, images = measure(name, generation, prompts, config.seed, judges, config.sets)
    warn(judges, labels)
    return row | reward_figures(rewards(images, prompts.texts), labels)


def score_texts(config: Config, generation: Generation, name: str) -> Row:
    """Score a model that reads texts. Raises ValueError unless prompts and rewards are given."""
    if not config.prompts or not config.rewards:
        raise ValueError(f"{config.weights} reads texts, of which judges know nothing: give --prompts FILE and --rewards KIND:PLACE")
    texts = read_set(config.prompts).prompts
    rewards = SeparateRewards.load(config.rewards, generation.model.device)
    row, scores, _ = measure_by_rewards(name, generation, texts.each(config.per_label), config.seed, rewards)
    return row | reward_figures(scores, torch.arange(len(texts)).repeat_interleave(config.per_label))


def write_row(path: Path, row: Row) -> None:
    """Write a table of one row in Markdown."""
    table = report.table([row])
    with atomic_path(path) as temporary:
        temporary.write_text(f"{markdown_table(table.headings, table.lines)}\n", encoding="utf-8")


def warn(judges: Judges, labels: Tensor) -> None:
    for caveat in judges.a.caveats(labels):
        print(f"warning: {caveat}", file=sys.stderr)


if __name__ == "__main__":
    cli.run(main, Config, __doc__, defaults(Config))
