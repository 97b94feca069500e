"""Measure a teacher of scenes: what judge A sees in its pictures of held-out prompts, by guidance, and a page of them.

    python jobs/embedded/scene_teacher_figures.py --cfg 2 3 4

Writes figures.json and, with the best guidance, samples.png into the teacher's folder.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from marval_ray import cli
from marval_ray.config import check_at_least, check_seed
from marval_ray.device import own_device
from marval_ray.diffusion.samplers import Ancestral
from marval_ray.draws import Draws
from marval_ray.embedded import assets_index, scene_texts
from marval_ray.embedded.sheet import sheet
from marval_ray.evaluation.evaluators import load_evaluator
from marval_ray.families.dcar.codec import DCHTCodec
from marval_ray.families.dcar.family import FAMILY
from marval_ray.families.dcar.loop import sample_loops
from marval_ray.families.dcar.model import DCAR
from marval_ray.families.dcar.text import TextEncoder
from marval_ray.files.atomic import atomic_path, write_json
from marval_ray.files.fit import load_strictly
from marval_ray.files.images import to_pixels
from marval_ray.files.tensors import read_state
from marval_ray.files.text import read_json
from marval_ray.hub.exported import CODEC
from marval_ray.hub.layout import CONFIG
from marval_ray.scenes.drawing import draw
from marval_ray.types import Prompts


@dataclass(frozen=True)
class Config:
    teacher: Path = Path("runs/scene-teacher")
    cfg: tuple[float, ...] = (2.0, 3.0, 4.0)
    """Guidance, of codes and of residuals alike."""
    loops: int = 12
    steps: int = 32
    clip: float | None = 1.0
    """Keep residuals within so many of their deviations at each step, as DC-AR does."""
    samples: int = 500
    batch: int = 50
    shown: int = 40
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_at_least(1, self, "loops", "steps", "batch", "shown", prefix="--")
        check_at_least(2, self, "samples", prefix="--")


@dataclass(frozen=True)
class Painter:
    """All that draws pictures of prompts."""

    model: DCAR
    texts: TextEncoder
    codec: DCHTCodec

    @classmethod
    def read(cls, folder: Path, device: torch.device) -> "Painter":
        """Read what jobs/embedded/train_scene_teacher.py wrote. Raises ValueError when something is missing or does not fit."""
        c = FAMILY.config(read_json(folder / CONFIG)["model"])
        model, weights = DCAR(c), folder / "teacher.safetensors"
        load_strictly(model, read_state(weights), weights)
        texts, codec = TextEncoder.load(folder / scene_texts.FOLDER, c), DCHTCodec.read(folder / CODEC, c)
        return cls(model.to(device), texts.to(device), codec.to(device))

    @torch.inference_mode()
    def paint(self, prompts: Prompts, first: int, sampler: Ancestral, config: Config) -> Float[Tensor, "N 3 64 64"]:
        """Return images in [-1, 1] of the prompts, drawn as numbers `first` on of the seed."""
        draws = Draws(config.seed, tuple(range(first, first + len(prompts))))
        *_, tokens = sample_loops(self.model, sampler, self.texts(prompts), draws, config.loops)
        return self.codec.decode(tokens).cpu()


def main(config: Config) -> None:
    painter = Painter.read(config.teacher, own_device())
    judge = load_evaluator(assets_index.SCENE_CLASSIFIER, assets_index.SCENE_REFERENCE)
    prompts = Prompts(tuple(draw(config.seed, index, "held-out")[0].prompt() for index in range(config.samples)))
    rows, best = [], -1.0
    for w in config.cfg:
        began = time.monotonic()
        images = painted(painter, prompts, w, config)
        row = {"cfg": w, "images_per_second": len(images) / (time.monotonic() - began)} | judge.score(images, prompts).known()
        print(", ".join(f"{name} {value:.3f}" for name, value in row.items()), flush=True)
        rows.append(row)
        if row["accuracy"] > best:
            best, shown = row["accuracy"], images[: config.shown]
    settings = {"loops": config.loops, "steps": config.steps, "clip": config.clip, "samples": config.samples, "seed": config.seed}
    write_json(config.teacher / "figures.json", settings | {"rows": rows})
    with atomic_path(config.teacher / "samples.png") as temporary:
        sheet(list(to_pixels(shown)), prompts[: config.shown].texts).save(temporary, "PNG", optimize=True)


def painted(painter: Painter, prompts: Prompts, w: float, config: Config) -> Float[Tensor, "N 3 64 64"]:
    """Return a picture of each prompt under guidance w."""
    model = painter.model
    model.config = replace(model.config, code_guidance=w)
    sampler = Ancestral(steps=config.steps, cfg=w, cfg_schedule="constant", clip_x0=config.clip)
    firsts = tqdm(range(0, len(prompts), config.batch), desc=f"guidance {w}")
    return torch.cat([painter.paint(prompts[first : first + config.batch], first, sampler, config) for first in firsts])


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
