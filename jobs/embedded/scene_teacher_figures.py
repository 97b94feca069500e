"""Measure a teacher of scenes: choose its guidance by judge A, then take the figures of both judges at several N_AR.

    python jobs/embedded/scene_teacher_figures.py --cfg 1.5 2 3

All pictures are of held-out prompts. Writes figures.json and, with the best guidance, samples.png into the teacher's folder.
"""

import shlex
import sys
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

from marval_ray import cli
from marval_ray.config import check_at_least, check_seed
from marval_ray.device import own_device
from marval_ray.diffusion.samplers import Ancestral
from marval_ray.embedded import scene_texts, shipped_judges
from marval_ray.embedded.sheet import sheet
from marval_ray.evaluation.judges import Judges
from marval_ray.evaluation.sweep import Row, best, measure
from marval_ray.families.generation import Generation
from marval_ray.files.atomic import atomic_path, write_json
from marval_ray.files.images import to_pixels
from marval_ray.hub.exported import CODEC
from marval_ray.hub.layout import load_model
from marval_ray.scenes.drawing import draw
from marval_ray.types import Prompts


@dataclass(frozen=True)
class Config:
    teacher: Path = Path("runs/scene-teacher")
    cfg: tuple[float, ...] = (1.5, 2.0, 3.0)
    """Guidance, of codes and of residuals alike; the one of the lowest FD wins."""
    temperatures: tuple[float, ...] = (1.5,)
    """Of the codes' Gumbel noise in the first loop; each is tried with each guidance."""
    choice_samples: int = 500
    choice_loops: int = 12
    steps: int = 32
    """Reverse steps of residuals."""
    clip: float | None = 1.0
    """Keep residuals within so many of their deviations at each step, as DC-AR does."""
    loops: tuple[int, ...] = (6, 8, 12)
    """Measured under the guidance that won."""
    samples: int = 500
    """Of a set."""
    sets: int = 3
    batch: int = 50
    shown: int = 40
    seed: int = 1_000

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_at_least(1, self, "choice_loops", "steps", "batch", "shown", "sets", prefix="--")
        check_at_least(2, self, "choice_samples", "samples", prefix="--")


def main(config: Config) -> None:
    judges = Judges.load(*shipped_judges.SCENES)
    chosen = held_out(config.choice_samples, config.seed)
    choice = []
    for w, temperature in product(config.cfg, config.temperatures):
        row, _ = measure("teacher", generation_of(config, w, temperature), chosen, config.seed, judges)
        choice.append({"cfg": w, "temperature": temperature} | row)
        print(said(choice[-1]), flush=True)
    won = best(choice)
    generation = generation_of(config, won["cfg"], won["temperature"])
    prompts, rows = held_out(config.sets * config.samples, config.seed + 1), []
    for loops in config.loops:
        row, images = measure("teacher", generation.with_loops(loops), prompts, config.seed + 1, judges, config.sets)
        rows.append(row)
        print(said(row), flush=True)
    command = shlex.join(["python", "jobs/embedded/scene_teacher_figures.py", *sys.argv[1:]])
    drawn = {"sampler": asdict(sampler_of(config, won["cfg"])), "temperature": won["temperature"]}
    write_json(config.teacher / "figures.json", {"command": command} | drawn | {"choice": choice, "rows": rows})
    with atomic_path(config.teacher / "samples.png") as temporary:
        sheet(list(to_pixels(images[: config.shown])), prompts[: config.shown].texts).save(temporary, "PNG", optimize=True)


def held_out(count: int, seed: int) -> Prompts:
    """Return prompts of combinations that nothing trains on."""
    return Prompts(tuple(draw(seed, index, "held-out")[0].prompt() for index in range(count)))


def generation_of(config: Config, w: float, temperature: float) -> Generation:
    """Read what jobs/embedded/train_scene_teacher.py wrote, to draw under guidance w. Raises ValueError when a file does not fit."""
    device, folder = own_device(), config.teacher
    model = load_model(folder / "teacher.safetensors").to(device).eval()
    model.config = replace(model.config, code_guidance=w, code_temperature=temperature)
    codec = model.config.family.codec(folder / CODEC, model.config).to(device)
    return Generation(model, codec, sampler_of(config, w), config.choice_loops, config.batch, folder / scene_texts.FOLDER)


def sampler_of(config: Config, w: float) -> Ancestral:
    return Ancestral(steps=config.steps, cfg=w, cfg_schedule="constant", clip_x0=config.clip)


def said(row: Row) -> str:
    return ", ".join(f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}" for name, value in row.items())


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
