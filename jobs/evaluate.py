"""Score images: Frechet distance (FD) to the reference, accuracy, diversity within a class, images/s.

    python jobs/evaluate.py --per-label 200 --n-ar 4
    python jobs/evaluate.py --teacher --per-label 50
    python jobs/evaluate.py --npz samples.npz
    python jobs/evaluate.py --per-label 50 --rewards clip:models/clip --out runs/scores.json
    python jobs/evaluate.py --checkpoint runs/dc-ar --prompts PartiPrompts.tsv --per-prompt 1 --rewards pickscore:models/pickscore

FD falls with the number of images: compare equal numbers only. Of texts that are no scenes rewards alone know something.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from marval_ray import cli
from marval_ray.class_names import prompts_of
from marval_ray.config import check_at_least
from marval_ray.device import own_device
from marval_ray.embedded import assets_index
from marval_ray.embedded.shipped_judges import judges_for
from marval_ray.evaluation.bootstrap import reward_figures
from marval_ray.evaluation.by_rewards import measure_by_rewards
from marval_ray.evaluation.judges import Judges
from marval_ray.evaluation.metrics import markdown_table
from marval_ray.evaluation.scores import check_count
from marval_ray.evaluation.sweep import Row, measure
from marval_ray.files.atomic import atomic_path, check_out, write_json
from marval_ray.files.images import read_npz, to_tensor
from marval_ray.prompt_sets import read_set
from marval_ray.prompts import read_prompts_of
from marval_ray.rewards import SeparateRewards
from marval_ray.runs import report
from marval_ray.source import Source, config_of, defaults
from marval_ray.types import Prompts


@dataclass(frozen=True)
class Config(Source):
    npz: Path | None = None
    """Score the images of this file (jobs/sample.py --out NAME.npz) instead of drawing some."""
    classifier: Path | None = assets_index.CLASSIFIER
    """Judge A, of clothes or of scenes; the default knows what --checkpoint draws, None leaves all judges out."""
    reference: Path | None = assets_index.REFERENCE
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


def judges_of(config: Config) -> Judges | None:
    if config.classifier is None or config.reference is None:
        return None
    return Judges.load((config.classifier, config.reference), (config.classifier_b, config.reference_b))


def score_file(config: Config, path: Path) -> Row:
    judges = judges_of(config)
    pixels, labels = read_npz(path)
    images, numbers = to_tensor(pixels), torch.from_numpy(labels.astype("int64"))
    prompts = read_prompts_of(config.prompts, numbers) if config.prompts else Prompts.of_labels(numbers)
    rewards = SeparateRewards.load(config.rewards, own_device())
    try:
        scores = judges.score(images, prompts, config.sets) if judges else {}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    warn(judges, prompts)
    return {"model": str(path), **scores} | reward_figures(rewards(images, prompts.texts), numbers)


def score_model(config: Config) -> Row:
    """Score a model's images by judges, and by rewards. Sets of texts are large: without judges no two batches are kept."""
    generation, judges = config.generation(), judges_of(config)
    model, name = generation.model.config, "teacher" if config.teacher else "student"
    prompts, numbers = asked_texts(config, judges) if model.num_classes is None else asked_classes(config, model.num_classes)
    if judges:
        judges.check(model.image_size, prompts)  # before they are drawn
        check_count(len(prompts), config.sets)
    rewards = SeparateRewards.load(config.rewards, generation.model.device)
    if judges is None and model.num_classes is None:
        row, scores, _ = measure_by_rewards(name, generation, prompts, config.seed, rewards)
    else:
        row, images = measure(name, generation, prompts, config.seed, judges, config.sets)
        scores = rewards(images, prompts.texts)
    warn(judges, prompts)
    return row | reward_figures(scores, numbers)


def asked_classes(config: Config, classes: int) -> tuple[Prompts, Tensor]:
    """Return what is drawn for classes, and the number of the class of each image."""
    labels = config.label_tensor(classes)
    if config.rewards:
        return prompts_of(config.weights, classes, config.prompts)[labels.tolist()], labels
    return Prompts.of_labels(labels), labels


def asked_texts(config: Config, judges: Judges | None) -> tuple[Prompts, Tensor]:
    """Return what is drawn for texts, and the number of the prompt of each image. Raises ValueError when nothing is asked or measured."""
    if judges and not config.prompts:
        raise ValueError(f"{config.weights} reads texts: give --prompts FILE")
    if not config.prompts or not (config.rewards or judges):
        raise ValueError(f"{config.weights} reads texts, of which judges know nothing: give --prompts FILE and --rewards KIND:PLACE")
    texts = read_set(config.prompts).prompts
    return texts.each(config.per_label), torch.arange(len(texts)).repeat_interleave(config.per_label)


def write_row(path: Path, row: Row) -> None:
    """Write a table of one row in Markdown."""
    table = report.table([row])
    with atomic_path(path) as temporary:
        temporary.write_text(f"{markdown_table(table.headings, table.lines)}\n", encoding="utf-8")


def warn(judges: Judges | None, prompts: Prompts) -> None:
    for caveat in judges.a.caveats(prompts) if judges else []:
        print(f"warning: {caveat}", file=sys.stderr)


def defaults_of(arguments: Sequence[str] | None = None) -> Config:
    """Return the defaults with the judges that know what --checkpoint draws, where that reads texts."""
    config, checkpoint = defaults(Config, arguments), cli.given("--checkpoint", arguments)
    model = config_of(Path(checkpoint)) if checkpoint else None
    if model is None or model.num_classes is not None:
        return config
    (classifier, reference), (classifier_b, reference_b) = judges_for(model) or ((None, None), (None, None))
    return replace(config, classifier=classifier, reference=reference, classifier_b=classifier_b, reference_b=reference_b)


if __name__ == "__main__":
    cli.run(main, Config, __doc__, defaults_of())
