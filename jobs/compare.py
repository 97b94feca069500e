"""Put checkpoints side by side: figures with standard errors, what may be said of them, pictures of the same seeds, on one page.

    python jobs/compare.py runs/demo marval_ray/embedded/assets/student/student-gsim.safetensors --out runs/compare
    python jobs/compare.py runs/a runs/b teacher --n-ar 4 8 16 --rewards clip:models/clip

A checkpoint is a file, a run, of which the newest student counts, an exported folder, or `teacher`, the embedded one.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
import tyro
from jaxtyping import Float
from torch import Tensor

from marval_ray import cli
from marval_ray.class_names import names_of
from marval_ray.config import check_at_least, check_loops, check_seed
from marval_ray.embedded import assets_index
from marval_ray.evaluation.claims import better
from marval_ray.evaluation.judges import Figures, Judges, over_sets
from marval_ray.evaluation.metrics import ACCURACY, DIVERSITY, FD, SPEED, Metric
from marval_ray.evaluation.scores import SIZES, check_count
from marval_ray.evaluation.sweep import Row
from marval_ray.families.generation import Generation
from marval_ray.files.atomic import write_json
from marval_ray.prompts import class_prompts, read_prompts
from marval_ray.rewards import Reward, check_rewards, load_reward
from marval_ray.runs import report
from marval_ray.runs.students import student_of
from marval_ray.source import Source, parse_labels
from marval_ray.types import Prompts

TEACHER = "teacher"


@dataclass(frozen=True)
class Config:
    checkpoints: tyro.conf.Positional[tuple[str, ...]]
    out: Path = Path("runs/compare")
    """A folder for compare.html, its pictures and figures.json."""
    n_ar: tuple[int, ...] = (8,)
    """Auto-regressive loops an image; each checkpoint draws with each of them."""
    labels: str = "0-9"
    per_label: int = 150
    sets: int = 3
    """Figures are means over so many sets of images, with their standard errors."""
    seed: int = 5_000
    batch: int = 64
    rewards: tuple[str, ...] = ()
    """Score the same images with these too: KIND:PLACE, such as pickscore:models/pickscore, as --rl.rewards."""
    prompts: Path | None = None
    """What rewards read: a text file with a line for each class; by default made of the class names."""
    vae: Path | None = None
    columns: int = 4
    """Pictures a class."""

    def __post_init__(self) -> None:
        check_at_least(1, self, "per_label", "sets", "batch", "columns", prefix="--")
        check_loops(self.n_ar, "--n-ar")
        check_seed(self.seed)
        if len(set(self.checkpoints)) < max(2, len(self.checkpoints)):
            raise ValueError("name two checkpoints at least, each once: files, runs or exported folders")


def main(config: Config) -> None:
    check_rewards(config.rewards)
    sources = {name: source(name, config, loops=max(config.n_ar)) for name in config.checkpoints}
    generations = {name: each.generation() for name, each in sources.items()}  # before minutes of drawing
    first = generations[config.checkpoints[0]]
    check_alike(generations)
    labels = torch.tensor(parse_labels(config.labels, first.model.config.num_classes))
    prompts = Prompts.of_labels(labels.repeat(config.per_label))
    check_count(len(prompts), config.sets)
    rewards = {text: load_reward([text], first.model.device) for text in config.rewards}
    texts = prompt_texts(config, sources[config.checkpoints[0]], first) if rewards else ()
    judges = judges_of(first)
    if judges:
        judges.a.check_labels(labels)
    titles = titled(config.checkpoints)
    rows: list[Row] = []
    grids: dict[str, Float[Tensor, "N C H W"]] = {}
    for name, generation in generations.items():
        for loops in config.n_ar:
            row, images = drawn(titles[name], generation.with_loops(loops), prompts, config, judges)
            rows.append(row | scored(rewards, images, prompts, texts, config.sets))
            count = min(config.columns, config.per_label)
            grids[f"{titles[name]}, {loops}"] = images[: count * len(labels)].unflatten(0, (count, -1)).transpose(0, 1).flatten(0, 1)
    write(config, rows, grids, [str(label) for label in labels.tolist()])


def source(name: str, config: Config, loops: int) -> Source:
    """Return where a checkpoint's images come from. Raises ValueError when it is not there."""
    common = Source(labels=config.labels, seed=config.seed, n_ar=loops, batch=config.batch, vae=config.vae)
    if name == TEACHER:
        return replace(common, teacher=True, checkpoint=assets_index.TEACHER)
    return replace(common, checkpoint=student_of(Path(name)))


def check_alike(generations: dict[str, Generation]) -> None:
    """Raise ValueError unless all draw images of one size for the same number of classes."""
    found = {(one.model.config.image_size, one.model.config.num_classes) for one in generations.values()}
    if len(found) > 1:
        configs = {name: one.model.config for name, one in generations.items()}
        told = ", ".join(f"{name}: {c.num_classes} classes, {c.image_size} pixels" for name, c in configs.items())
        raise ValueError(f"these draw different things and cannot be compared ({told})")


def judges_of(generation: Generation) -> Judges | None:
    """Return the embedded judges if they know such images."""
    size = [generation.model.config.image_size] * 2
    if size not in SIZES:
        print(f"images of {size[0]} x {size[1]} are compared by pictures and rewards alone: jobs/fid.py measures their FID")
        return None
    return Judges.load((assets_index.CLASSIFIER, assets_index.REFERENCE), (assets_index.CLASSIFIER_B, assets_index.REFERENCE_B))


def drawn(
    title: str, generation: Generation, prompts: Prompts, config: Config, judges: Judges | None
) -> tuple[Row, Float[Tensor, "N C H W"]]:
    """Return the figures of a model's images, and these."""
    began = time.perf_counter()
    images = generation.images(prompts, config.seed, progress=f"{title} N_AR={generation.loops}")
    speed = len(images) / (time.perf_counter() - began)
    figures = judges.score(images, prompts.labels, config.sets) if judges else {}
    return {"model": title, "n_ar": generation.loops, **figures, SPEED.name: speed}, images


def scored(
    rewards: dict[str, Reward], images: Float[Tensor, "N C H W"], prompts: Prompts, texts: tuple[str, ...], sets: int
) -> dict[str, Any]:
    """Return the mean score of each reward, with its standard error over sets."""
    found: Figures = {}
    for text, reward in rewards.items():
        assert prompts.labels is not None
        wanted = [texts[label] for label in prompts.labels.tolist()]
        with torch.no_grad():
            scores = torch.cat([reward(part, wanted[i * 50 : i * 50 + len(part)]) for i, part in enumerate(images.split(50))]).float()
        name = report.REWARD + text.partition(":")[0]
        dealt = scores[: len(scores) // sets * sets].view(sets, -1)  # each has the classes in turn
        found |= over_sets([{name: part.mean().item()} for part in dealt])
    return found


def prompt_texts(config: Config, origin: Source, generation: Generation) -> tuple[str, ...]:
    """Return a prompt for each class, as RL has them."""
    classes = generation.model.config.num_classes
    if config.prompts is not None:
        return tuple(read_prompts(config.prompts, classes))
    assert origin.checkpoint is not None  # `source` named one
    return tuple(class_prompts(names_of(origin.checkpoint, classes)))


def said(rows: list[Row]) -> list[str]:
    """Say which of two is better at the same N_AR, beyond two standard errors and by both judges."""
    found = []
    for a, b in combinations(rows, 2):
        if a["n_ar"] != b["n_ar"] or FD.name not in a:
            continue
        for metric in (FD, ACCURACY, DIVERSITY):
            found.append(f"{metric.title} at N_AR = {a['n_ar']}: {verdict(a, b, metric)}, by both judges and two standard errors.")
    return found


def verdict(a: Row, b: Row, metric: Metric) -> str:
    """Say which of two rows is better."""
    for winner, loser in ((a, b), (b, a)):
        if better(winner, loser, metric):
            return f"{winner['model']} is better than {loser['model']}"
    return f"{a['model']} and {b['model']} are not told apart"


def write(config: Config, rows: list[Row], grids: dict[str, Float[Tensor, "N C H W"]], labels: list[str]) -> None:
    """Write the page, the picture and the figures, and print what may be said."""
    notes = said(rows)
    picture = config.out / "grid.png"
    config.out.mkdir(parents=True, exist_ok=True)
    report.save_comparison(picture, grids, min(config.columns, config.per_label), labels)
    write_json(config.out / "figures.json", {"rows": rows, "said": notes})
    shown = [("The same seeds and classes; a row is a class, a title the checkpoint and N_AR.", picture)]
    report.write_html(config.out / "compare.html", "Comparison", {}, rows, shown, vars(config), notes)
    for note in notes:
        print(note)
    print(config.out / "compare.html")


def titled(names: Sequence[str]) -> dict[str, str]:
    """Return what each checkpoint is called in tables: the end of its path, the whole of it where ends are alike."""
    short = {name: f"{Path(name).parent.name}/{Path(name).stem}" if Path(name).suffix else Path(name).name for name in names}
    return short if len(set(short.values())) == len(short) else {name: name for name in names}


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
