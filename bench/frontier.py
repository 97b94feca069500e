"""Measure docs/frontier.md: quality against speed of the teacher, of the teacher with what makes it faster, and of the student.

A student may be compared with a slow teacher only after the teacher had its own short cuts: fewer loops and steps, fewer steps
the more is known (DiSA), the student's way to reveal tokens. What was measured is kept in docs/frontier.json, speeds apart: these are
taken anew, one after the other. The teacher as published has the figures that ship with it.
"""

import json
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from records import DEFAULT, checksum, write
from tables import SHORT as COLUMNS

from marval_ray import cli
from marval_ray.diffusion.samplers import Ancestral
from marval_ray.embedded import assets_index
from marval_ray.embedded.shipped_judges import CLOTHES
from marval_ray.evaluation.judges import Judges
from marval_ray.evaluation.metrics import BY_JUDGE, FD, SPEED, error_of, markdown_table
from marval_ray.evaluation.sweep import Row, images_per_second, measure
from marval_ray.families.generation import Generation, student_generation
from marval_ray.files.atomic import write_json
from marval_ray.hub.layout import load_model
from marval_ray.runs.report.plots import ACCELERATED, plot_frontier
from marval_ray.types import Prompts

USUAL = assets_index.teacher_sampler()
USUAL_LOOPS = (64, 16, 8)
REVEAL = DEFAULT.model.student_reveal
FAST = (
    (64, 50, 5, None), (16, 50, 5, None), (8, 50, 5, None), (8, 25, None, None), (8, 25, 5, None),
    (8, 25, 5, REVEAL), (6, 25, None, REVEAL), (6, 25, 5, REVEAL), (4, 25, 5, REVEAL), (4, 12, 4, REVEAL),
)  # fmt: skip
"""Of the accelerated teacher: loops, steps of the first and of the last loop, p of 1 - u^p."""
LOOPS = (8, 6, 4, 3, 2)
"""Of the student."""


@dataclass(frozen=True)
class Config:
    records: Path = Path("docs/frontier.json")
    document: Path = Path("docs/frontier.md")
    samples: int = 500
    """Of each of `sets` sets."""
    sets: int = 3
    seed: int = 3_000
    rounds: int = 3
    """Times that a batch of each is timed, all in turn; the fastest counts."""


def main(config: Config) -> None:
    models, judges = list(generations()), Judges.load(*CLOTHES)
    rows = [measured(config, judges, model, generation) for model, generation in models]
    prompts = Prompts.classes_in_turn(DEFAULT.model.num_classes, models[0][1].batch)
    for _ in range(config.rounds):
        for row, (_, generation) in zip(rows, models):
            row[SPEED.name] = max(row.get(SPEED.name, 0.0), images_per_second(generation, prompts))
    best = min((row for row in rows if row["model"] == "teacher"), key=lambda row: row[FD.name])
    plot_frontier(config.document.parent / "images/acceleration.png", rows, best[SPEED.name])
    lines = [line(row, best[SPEED.name]) for row in rows]
    heads = ["", "sampling", *(BY_JUDGE[name].title for name in COLUMNS), SPEED.title, "speed"]
    write(config.document, TEXT.format(
        command=shlex.join(["python", "bench/frontier.py", *sys.argv[1:]]), samples=config.samples, sets=config.sets,
        rounds=config.rounds, table=markdown_table(heads, lines),
    ))  # fmt: skip


def generations() -> Iterator[tuple[str, Generation]]:
    """Yield what is compared, the slowest first."""
    codec = DEFAULT.model.family.codec(assets_index.VAE, DEFAULT.model)
    teacher, student = (load_model(path, DEFAULT.model) for path in (assets_index.TEACHER, assets_index.STUDENT))
    usual = Generation(teacher, codec, USUAL, 64)
    yield from (("teacher", usual.with_loops(loops)) for loops in USUAL_LOOPS)
    for loops, steps, last, reveal in FAST:
        sampler = replace(USUAL, steps=steps, last_steps=last, reveal=reveal)
        yield ACCELERATED, replace(usual.with_loops(loops), sampler=sampler)
    yield from (("student", student_generation(student, codec, loops)) for loops in LOOPS)


def measured(config: Config, judges: Judges, model: str, generation: Generation) -> Row:
    """Return the row of a model without its speed: as shipped, from the records when they have one of the same settings, or anew."""
    shown = {"model": model, "n_ar": generation.loops, "sampling": sampling(generation)}
    if model == "teacher":
        rows = json.loads(assets_index.TEACHER_FIGURES.read_text(encoding="utf-8"))["rows"]
        known = next(row for row in rows if (row["n_ar"], row["samples"]) == (generation.loops, config.samples))
        return without_speed(known) | shown
    records = json.loads(config.records.read_text(encoding="utf-8")) if config.records.exists() else []
    weights = checksum(assets_index.STUDENT if model == "student" else assets_index.TEACHER)
    settings: dict[str, Any] = {
        "model": model, "weights": weights, "loops": generation.loops, "sampler": repr(generation.sampler),
        "samples": config.samples, "sets": config.sets, "seed": config.seed,
    }  # fmt: skip
    for record in records:
        if record["settings"] == settings:
            return record["row"] | shown
    prompts = Prompts.classes_in_turn(DEFAULT.model.num_classes, config.samples * config.sets)
    row = without_speed(measure(model, generation, prompts, config.seed, judges, config.sets)[0])
    write_json(config.records, [*records, {"settings": settings, "row": row}])
    return row | shown


def without_speed(row: Row) -> Row:
    return {name: value for name, value in row.items() if name != SPEED.name}


def sampling(generation: Generation) -> str:
    """Tell loops, steps, and how tokens are revealed."""
    sampler = generation.sampler
    if not isinstance(sampler, Ancestral):
        return f"{generation.loops} loops x 1 step"
    steps = f"{sampler.steps}" if sampler.last_steps is None else f"{sampler.steps} to {sampler.last_steps}"
    return f"{generation.loops} loops x {steps} steps" + (f", 1 - u^{sampler.reveal:g}" if sampler.reveal else "")


def line(row: Row, unit: float) -> list[str]:
    scores = [BY_JUDGE[name].text(row[name], row.get(error_of(name))) for name in COLUMNS]
    return [row["model"], row["sampling"], *scores, f"{row[SPEED.name]:.3g}", f"{row[SPEED.name] / unit:.3g}"]


TEXT = """# Quality against speed, with a teacher that hurries too

Made by `{command}` on 2 CPU cores. A one-step student is many times as fast as its teacher as published; what it saves is known only
beside a teacher with short cuts of its own: fewer loops, fewer reverse steps, fewer of them the more is known (`--sampler.last-steps`,
after DiSA, arXiv 2505.20297), and tokens revealed as the student does (`--sampler.reveal`). {samples} samples in each of {sets} sets; ± is
a standard error. The teacher as published has the figures of `jobs/teacher_figures.py`, of other seeds. Speeds: batches of 64, all in
turn, the best of {rounds}; speed 1 is the teacher at its lowest FD.

![FD by both judges against speed: teacher, accelerated teacher, student; the numbers are those of loops](images/acceleration.png)

{table}
"""


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
