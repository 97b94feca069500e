"""Measure docs/results.md and the README's first screen: the default command, both stages, a run for each training seed.

Each run is `jobs/distill.py` in a folder of its own under runs/results. What was measured is kept in docs/results.json
beside the settings that gave it, and measured again only when those have changed; an interrupted run is resumed. So the
command may be stopped and repeated. The pictures come from the first seed.
"""

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import tables
from records import Records, Summary, copy_pictures, write, write_between

from marval_ray import cli
from marval_ray.embedded import assets_index

PICTURES = ("grid.png", "frontier.png", "loops.png")
BEGIN, END = "<!-- results: written by `make results` -->\n", "<!-- end of results -->\n"


@dataclass(frozen=True)
class Config:
    out: Path = Path("runs/results")
    records: Path = Path("docs/results.json")
    document: Path = Path("docs/results.md")
    readme: Path = Path("README.md")
    seeds: tuple[int, ...] = (0,)
    """Of training; from two on, errors are those over runs."""
    samples: int = 500
    """Of a set; the headline is a mean over sets, and over seeds."""
    sets: int = 10
    """Three of one seed may all be lucky: accuracy went from 0.897 to 0.921 with the seed."""


def main(config: Config) -> None:
    records = Records(config.records, config.out)
    shared = {"figures.samples": config.samples, "figures.sets": config.sets}
    runs = [records.measure(f"seed-{seed}", "gsim,rl", shared | {"seed": seed}) for seed in config.seeds]
    copy_pictures(config.out / f"seed-{config.seeds[0]}", config.document.parent / "images", dict(zip(PICTURES, PICTURES)))
    write(config.document, document(config, runs))
    write_between(config.readme, BEGIN, END, f"{first_screen(config, runs)}\n")


def first_screen(config: Config, runs: list[Summary]) -> str:
    return FIRST_SCREEN.format(
        samples=config.samples, sets=config.sets, runs=tables.counted(len(runs), "run"),
        headline=tables.headline(runs, tables.SHORT), claims=tables.claims(runs),
    )  # fmt: skip


def document(config: Config, runs: list[Summary]) -> str:
    teacher = json.loads(assets_index.TEACHER_FIGURES.read_text(encoding="utf-8"))
    return TEXT.format(
        command=shlex.join(["python", "bench/results.py", *sys.argv[1:]]),
        samples=config.samples,
        sets=config.sets,
        runs=tables.counted(len(runs), "run"),
        teacher_command=teacher["command"],
        guidance=f"{teacher['sampler']['cfg']} ({teacher['sampler']['cfg_schedule']} schedule)",
        headline=tables.headline(runs),
        claims=tables.claims(runs),
        loops=tables.loop_table(runs),
    )


FIRST_SCREEN = """
![Fashion-MNIST, same seeds and classes: teacher, one step before, after GSIM, after RL](docs/images/grid.png)

{headline}

{samples} samples of Fashion-MNIST in each of {sets} sets (three of the teacher's), {runs} of `make demo`'s command;
± is a standard error. FD: Frechet distance in the features of two classifiers, of which the second (B) decided nothing.

{claims}

![FD by both judges against speed](docs/images/frontier.png)
"""

TEXT = """# Results of the embedded model

Made by `{command}` on 2 CPU cores (`make results`): {runs} of the default command, both stages.

FD: Frechet distance to the 10,000 test images of Fashion-MNIST in the features of a classifier; it falls with the number of
samples, so compare equal numbers only. KID: kernel distance, whose mean does not. Accuracy: share of samples that the classifier
gives the class that was asked for. Diversity: mean feature distance within a class over that of real images. Guard and trials
look through judge A; B is another network, which decides nothing. Teacher figures: `{teacher_command}`;
of the guidance scales and schedules tried there {guidance} won.

## One diffusion step a token against the teacher's hundred

{samples} samples in each of {sets} sets (three of the teacher's); the mean ± its standard error, over seeds where there are several
runs. Speeds are of this machine, in the same run.

{headline}

{claims}

![Same seeds and classes: teacher, student before, after GSIM, after RL](images/grid.png)

## Quality and speed by number of loops

{samples} samples of each, by the student after both stages.

{loops}

![FD by both judges against speed](images/frontier.png)

![FD and images/s against the number of loops](images/loops.png)

Curves of a run, and what the guard saw on its way, are in its `report.html`. What each setting does is in [ablations.md](ablations.md).
"""


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
