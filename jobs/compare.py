"""Put checkpoints side by side: figures with standard errors, what may be said of them, pictures of the same seeds, on one page.

    python jobs/compare.py runs/demo marval_ray/embedded/assets/student/student-gsim.safetensors --out runs/compare
    python jobs/compare.py runs/a runs/b teacher --n-ar 4 8 16 --rewards clip:models/clip
    python jobs/compare.py runs/t-a runs/t-b --n-ar 12 --prompts PartiPrompts.tsv --per-prompt 1 --rewards pickscore:models/pickscore

A checkpoint is a run or an export, whose newest student counts, a file, or `teacher`, the embedded one.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Annotated

import torch
import tyro
from jaxtyping import Float, Int64
from torch import Tensor

from marval_ray import cli
from marval_ray.class_names import prompts_of
from marval_ray.config import check_at_least, check_loops, check_seed
from marval_ray.embedded.shipped_judges import judges_for
from marval_ray.evaluation.bootstrap import reward_figures
from marval_ray.evaluation.by_rewards import Scores, measure_by_rewards
from marval_ray.evaluation.claims import PairedDifference, better
from marval_ray.evaluation.judges import Judges
from marval_ray.evaluation.metrics import ACCURACY, ATTRIBUTES, DIVERSITY, FD, Metric
from marval_ray.evaluation.scores import check_count
from marval_ray.evaluation.sweep import Row, measure
from marval_ray.families.base import FamilyConfig
from marval_ray.families.generation import Generation
from marval_ray.files.atomic import write_json
from marval_ray.prompt_sets import read_set
from marval_ray.rewards import SeparateRewards
from marval_ray.runs import report
from marval_ray.source import PER_PROMPT, Source, parse_labels
from marval_ray.types import Prompts

TEACHER = "teacher"
PICTURED = 8
"""Prompts whose pictures are shown."""


@dataclass(frozen=True)
class Config:
    checkpoints: tyro.conf.Positional[tuple[str, ...]]
    out: Path = Path("runs/compare")
    """A folder for compare.html, its pictures and figures.json."""
    n_ar: tuple[int, ...] = (8,)
    """Auto-regressive loops an image; each checkpoint draws with each of them."""
    labels: str = "0-9"
    per_label: Annotated[int, PER_PROMPT] = 150
    """Images of each class, or prompt."""
    sets: int = 3
    """Figures are means over so many sets of images, with their standard errors."""
    seed: int = 5_000
    batch: int = 64
    rewards: tuple[str, ...] = ()
    """Score the same images with these too: KIND:PLACE, such as pickscore:models/pickscore, as --rl.rewards."""
    prompts: Path | None = None
    """What rewards read: a text file with a line for each class; by default made of the class names. Of models that read texts what is
    drawn, in any form that jobs/sample.py takes."""
    vae: Path | None = None
    columns: int = 4
    """Pictures a class, or of each of the first PICTURED prompts."""

    def __post_init__(self) -> None:
        check_at_least(1, self, "per_label", "sets", "batch", "columns", prefix="--")
        check_loops(self.n_ar, "--n-ar")
        check_seed(self.seed)
        if len(set(self.checkpoints)) < max(2, len(self.checkpoints)):
            raise ValueError("name two checkpoints at least, each once: runs, exports or files")


@dataclass(frozen=True)
class Wanted:
    """Images that all draw. numbers: of the class or prompt of each. titles: of the rows of pictures, by these numbers."""

    prompts: Prompts
    numbers: Int64[Tensor, " N"]
    titles: dict[int, str]
    judges: Judges | None = None

    def pictured(self, columns: int) -> list[int]:
        """Return which images are shown, row by row."""
        places = [(self.numbers == number).nonzero().flatten() for number in self.titles]
        return torch.cat([each[:columns] for each in places]).tolist()


def main(config: Config) -> None:
    SeparateRewards.check(config.rewards)
    sources = {name: source(name, config, loops=max(config.n_ar)) for name in config.checkpoints}
    generations = {name: each.generation() for name, each in sources.items()}  # before minutes of drawing
    first = generations[config.checkpoints[0]]
    check_alike(generations)
    wanted_of = wanted_texts if first.model.config.num_classes is None else wanted_classes
    wanted = wanted_of(config, sources[config.checkpoints[0]].weights, first.model.config)
    rewards = SeparateRewards.load(config.rewards, first.model.device)
    titles = titled(config.checkpoints)
    rows: list[Row] = []
    scores: list[Scores] = []
    grids: dict[str, Float[Tensor, "N C H W"]] = {}
    for name, generation in generations.items():
        for loops in config.n_ar:
            row, found, grids[f"{titles[name]}, {loops}"] = drawn(titles[name], generation.with_loops(loops), wanted, config, rewards)
            scores.append(found)
            rows.append(row | reward_figures(found, wanted.numbers))
    write(config, rows, differences(rows, scores, wanted.numbers), grids, list(wanted.titles.values()))


def wanted_classes(config: Config, weights: Path, model: FamilyConfig) -> Wanted:
    """Return images of all classes in turn, and the judges that know them. Raises ValueError for wrong classes, or too few images."""
    classes = model.num_classes
    assert classes is not None  # wanted_texts is for others
    labels = torch.tensor(parse_labels(config.labels, classes))
    numbers = labels.repeat(config.per_label)
    prompts = prompts_of(weights, classes, config.prompts)[numbers.tolist()] if config.rewards else Prompts.of_labels(numbers)
    check_count(len(prompts), config.sets)
    return Wanted(prompts, numbers, {label: str(label) for label in labels.tolist()}, judges_of(model, prompts))


def wanted_texts(config: Config, weights: Path, model: FamilyConfig) -> Wanted:
    """Return images of each prompt of the file, one prompt after another, and the judges that know them.

    Raises ValueError when there is no file, or too few images for the judges.
    """
    if not config.prompts:
        raise ValueError(f"{weights} reads texts: give --prompts FILE")
    texts = read_set(config.prompts).prompts
    numbers = torch.arange(len(texts)).repeat_interleave(config.per_label)
    prompts, titles = texts.each(config.per_label), dict(enumerate(map(report.wrapped, texts.texts[:PICTURED])))
    judges = judges_of(model, prompts)
    if judges:
        check_count(len(prompts), config.sets)
    return Wanted(prompts, numbers, titles, judges)


def source(name: str, config: Config, loops: int) -> Source:
    """Return where a checkpoint's images come from. Raises ValueError when it is not there."""
    common = Source(labels=config.labels, seed=config.seed, n_ar=loops, batch=config.batch, vae=config.vae)
    if name == TEACHER:
        return replace(common, teacher=True)
    return replace(common, checkpoint=Path(name))


def check_alike(generations: dict[str, Generation]) -> None:
    """Raise ValueError unless all draw images of one size for the same number of classes, or for texts."""
    found = {(one.model.config.image_size, one.model.config.num_classes) for one in generations.values()}
    if len(found) > 1:
        configs = {name: one.model.config for name, one in generations.items()}
        told = ", ".join(f"{name}: {c.num_classes or 'no'} classes, {c.image_size} pixels" for name, c in configs.items())
        raise ValueError(f"these draw different things and cannot be compared ({told})")


def judges_of(model: FamilyConfig, prompts: Prompts) -> Judges | None:
    """Return the embedded judges if they know such images; say why where they do not."""
    files, side = judges_for(model), model.image_size
    if files is None:
        print(f"images of {side} x {side} are compared by pictures and rewards alone: jobs/fid.py measures their FID")
        return None
    judges = Judges.load(*files)
    try:
        judges.check(side, prompts)
    except ValueError as error:
        print(f"compared by pictures and rewards alone: {error}")
        return None
    return judges


def drawn(
    title: str, generation: Generation, wanted: Wanted, config: Config, rewards: SeparateRewards
) -> tuple[Row, Scores, Float[Tensor, "N C H W"]]:
    """Return the figures of a model's images, their scores by rewards, and those that are shown."""
    shown = wanted.pictured(config.columns)
    if wanted.judges is None and wanted.prompts.labels is None:
        row, scores, pictures = measure_by_rewards(title, generation, wanted.prompts, config.seed, rewards, shown)
        return row, scores, torch.stack(pictures)
    row, images = measure(title, generation, wanted.prompts, config.seed, wanted.judges, config.sets)
    return row, rewards(images, wanted.prompts.texts), images[shown]


def differences(rows: list[Row], scores: list[Scores], labels: Int64[Tensor, " N"]) -> list[PairedDifference]:
    """Compare the scores of each two rows at the same N_AR: images of one seed and prompt, so that their common noise drops out."""
    return [
        PairedDifference.of(name, a["n_ar"], (a["model"], b["model"]), of_a[name] - of_b[name], labels)
        for (a, of_a), (b, of_b) in combinations(zip(rows, scores), 2)
        if a["n_ar"] == b["n_ar"]
        for name in of_a
    ]


def said(rows: list[Row]) -> list[str]:
    """Say which of two is better at the same N_AR, beyond two standard errors and by both judges."""
    found = []
    for a, b in combinations(rows, 2):
        if a["n_ar"] != b["n_ar"] or FD.name not in a:
            continue
        known = [metric for metric in (FD, ACCURACY, *ATTRIBUTES, DIVERSITY) if metric.name in a]
        for metric in known:
            found.append(f"{metric.title} at N_AR = {a['n_ar']}: {verdict(a, b, metric)}, by both judges and two standard errors.")
    return found


def verdict(a: Row, b: Row, metric: Metric) -> str:
    """Say which of two rows is better."""
    for winner, loser in ((a, b), (b, a)):
        if better(winner, loser, metric):
            return f"{winner['model']} is better than {loser['model']}"
    return f"{a['model']} and {b['model']} are not told apart"


def write(
    config: Config, rows: list[Row], paired: list[PairedDifference], grids: dict[str, Float[Tensor, "N C H W"]], labels: list[str]
) -> None:
    """Write the page, the picture and the figures, and print what may be said."""
    notes = said(rows) + [difference.said() for difference in paired]
    picture = config.out / "grid.png"
    config.out.mkdir(parents=True, exist_ok=True)
    report.save_comparison(picture, grids, min(config.columns, config.per_label), labels)
    write_json(config.out / "figures.json", {"rows": rows, "differences": [asdict(difference) for difference in paired], "said": notes})
    shown = [("The same seeds and classes or prompts; a row is one of these, a title the checkpoint and N_AR.", picture)]
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
