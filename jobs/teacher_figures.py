"""Measure a teacher: choose its guidance, then FD, accuracy and images/s against N_AR.

The figures of the embedded teacher are shipped; this is the command that made them.
"""

import json
import shlex
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from marval_ray import cli
from marval_ray.config import check_seed
from marval_ray.device import own_device
from marval_ray.diffusion.samplers import Ancestral, Schedule
from marval_ray.embedded import assets_index
from marval_ray.evaluation.judges import Judges
from marval_ray.evaluation.sweep import Row, best, images_per_second, measure
from marval_ray.families.generation import Generation
from marval_ray.files.atomic import write_json
from marval_ray.hub.layout import load_model
from marval_ray.types import Prompts


@dataclass(frozen=True)
class Config:
    checkpoint: Path = assets_index.TEACHER
    vae: Path = assets_index.VAE
    classifier: Path = assets_index.CLASSIFIER
    reference: Path = assets_index.REFERENCE
    """Judge A, which chooses."""
    classifier_b: Path | None = assets_index.CLASSIFIER_B
    reference_b: Path | None = assets_index.REFERENCE_B
    sampler: Ancestral = field(default_factory=lambda: Ancestral(clip_x0=4.5))
    """Its guidance is replaced by the candidates."""
    cfg: tuple[float, ...] = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0)
    """Candidates of the guidance scale; the one of the lowest FD wins, of those that are accurate enough."""
    cfg_schedules: tuple[Schedule, ...] = ("linear", "constant")
    """Each scale is tried with each of these; 1 is no guidance, whatever the schedule."""
    min_accuracy: float = 0.0
    choice_samples: int = 500
    choice_steps: int = 25
    """Diffusion steps in the choice."""
    choice_loops: int = 8
    samples: int = 10_000
    loops: tuple[int, ...] = (8, 64)
    """Measured with `samples` images."""
    few: int = 2_000
    few_loops: tuple[int, ...] = (1, 2, 4, 16, 32)
    """Measured with `few` images only."""
    sizes: tuple[int, ...] = (2_000, 500)
    """The same images are scored all together, and in sets of each of these sizes: FD falls with the size."""
    seed: int = 1_000
    batch: int = 64
    retime: bool = False
    """Measure nothing but images/s, for the figures that OUT holds; to be used on a machine without other load."""
    out: Path = assets_index.TEACHER_FIGURES

    def __post_init__(self) -> None:
        check_seed(self.seed)


def main(config: Config) -> None:
    device = own_device()
    model = load_model(config.checkpoint).to(device)
    codec = model.config.family.codec(config.vae, model.config).to(device)
    generation = Generation(model, codec, config.sampler, batch=config.batch)
    figures = retimed(generation, config) if config.retime else measured(generation, config)
    write_json(config.out, figures)
    for row in figures["choice"] + figures["rows"]:
        print(row)


def retimed(generation: Generation, config: Config) -> dict[str, Any]:
    """Return the figures in OUT with the speed of one batch at each number of loops."""
    figures = json.loads(config.out.read_text(encoding="utf-8"))
    generation = replace(generation, sampler=Ancestral(**figures["sampler"]))
    prompts = of_classes(generation, generation.batch)
    speeds = {n: images_per_second(generation.with_loops(n), prompts) for n in {row["n_ar"] for row in figures["rows"]}}
    return figures | {"rows": [row | {"images_per_second": speeds[row["n_ar"]]} for row in figures["rows"]]}


def measured(generation: Generation, config: Config) -> dict[str, Any]:
    """Measure guidance, quality and speed."""
    judges = Judges.load((config.classifier, config.reference), (config.classifier_b, config.reference_b))
    choice = [with_guidance(generation, candidate, judges, config) for candidate in candidates(config)]
    accurate = [row for row in choice if row["accuracy"] >= config.min_accuracy]
    if not accurate:
        raise ValueError(f"no guidance reaches --min-accuracy {config.min_accuracy}; the figures are above")
    sampler = replace(candidates(config)[choice.index(best(accurate))], steps=config.sampler.steps)
    generation = replace(generation, sampler=sampler)
    amounts = [(n, config.samples) for n in config.loops] + [(n, config.few) for n in config.few_loops]
    rows = [row for n, count in amounts for row in at_sizes(generation.with_loops(n), count, judges, config)]
    return {
        "command": shlex.join(["python", "jobs/teacher_figures.py", *sys.argv[1:]]),
        "sampler": asdict(sampler),
        "choice": choice,
        "rows": rows,
    }


def candidates(config: Config) -> list[Ancestral]:
    base = replace(config.sampler, steps=config.choice_steps)
    pairs = [(cfg, schedule) for cfg in config.cfg for schedule in config.cfg_schedules[: 1 if cfg == 1 else None]]
    return [replace(base, cfg=cfg, cfg_schedule=schedule) for cfg, schedule in pairs]


def with_guidance(generation: Generation, sampler: Ancestral, judges: Judges, config: Config) -> Row:
    """Return the figures of `choice_samples` images under one candidate."""
    generation = replace(generation, sampler=sampler, loops=config.choice_loops)
    prompts = of_classes(generation, config.choice_samples)
    row, _ = measure(f"teacher cfg={sampler.cfg} {sampler.cfg_schedule}", generation, prompts, config.seed, judges)
    print(row, flush=True)
    return row


def at_sizes(generation: Generation, count: int, judges: Judges, config: Config) -> list[Row]:
    """Return the figures of `count` images all together, and in sets of each smaller size."""
    prompts = of_classes(generation, count)
    row, images = measure("teacher", generation, prompts, config.seed, judges)
    sets = [count // size for size in config.sizes if size < count]
    return [row, *(row | judges.score(images, prompts, number) for number in sets)]


def of_classes(generation: Generation, count: int) -> Prompts:
    """Ask for the classes in turn."""
    return Prompts.classes_in_turn(generation.model.config.num_classes, count)


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
