"""Train a teacher on latents, for data that no published model knows, on Ray; then jobs/distill.py makes one step of it.

    python jobs/train_teacher.py --latents latents.parquet --classes 5 --out runs/teacher
    python jobs/train_teacher.py --preset mar-b --latents latents/ --vae models/kl16/kl16.ckpt --classes 20
    python jobs/distill.py --teacher runs/teacher/teacher.safetensors --latents latents.parquet --stages gsim

Runs alike as `python ...`, under `ray job submit`, and against the cluster that RAY_ADDRESS names.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from marval_ray.environment import before_ray

before_ray()

import torch
import tyro

from actors import local_ray
from actors.errors import plainly
from actors.learning.learner import AVERAGE
from actors.learning.tasks import learner_demands
from actors.learning.teacher import TeacherRun
from actors.learning.trainer import train
from actors.resources import check_resources, node_resources
from actors.signals import Stopped, handled, stop_now
from marval_ray import cli
from marval_ray.config import LearnerConfig, check_seed
from marval_ray.device import own_device
from marval_ray.diffusion.samplers import Ancestral
from marval_ray.families.generation import Generation
from marval_ray.families.mar.config import ModelConfig
from marval_ray.files.fit import save_weights
from marval_ray.files.storage import ERRORS, Storage
from marval_ray.files.tensors import read_state
from marval_ray.hub.layout import load_model
from marval_ray.presets import MAR_MODELS, PRESETS, SAMPLERS, TEACHERS
from marval_ray.runs import report
from marval_ray.runs.folder import RECORDS, check_run_folder, open_run_folder
from marval_ray.runs.lock import locked
from marval_ray.runs.stage import TEACHER, read_metrics
from marval_ray.types import Prompts

PICTURES, SHOWN_CLASSES = 4, 10
"""Images of each class, and how many classes, of the pictures at the end."""


@dataclass(frozen=True)
class Config:
    preset: str
    """Defaults for all that follows: tiny (embedded), mar-b, mar-l, mar-h, detok-b or detok-l."""
    latents: Path
    """Arrow or Parquet written by jobs/encode.py: a file or a folder."""
    vae: Path
    """Codec of the latents, which the pictures need: a diffusers folder, or KL-16's file."""
    model: ModelConfig
    learner: LearnerConfig
    """`auxiliary-lr` has no part in this."""
    sampler: Ancestral
    """How the pictures at the end are drawn."""
    classes: int | None = None
    """Number of classes, by default the preset's."""
    init: Path | None = None
    """Begin with these weights instead of random ones; they have to be of the same sizes."""
    drop: float = 0.1
    """Share of the images whose class is left out, for guidance."""
    repeats: int = 4
    """Draws of (timestep, noise) for each token in an update."""
    loops: int = 16
    """N_AR of the pictures at the end."""
    out: str = "runs/teacher"
    """A folder, s3://BUCKET/... or gs://BUCKET/...."""
    seed: int = 0
    resume: bool = False
    """Continue the run in OUT from its last checkpoint."""
    overwrite: bool = False
    """Throw away the run in OUT."""

    def __post_init__(self) -> None:
        if self.resume and self.overwrite:
            raise ValueError("--resume and --overwrite exclude each other")
        if not 0 <= self.drop < 1:
            raise ValueError(f"--drop must be in [0, 1), got {self.drop}")
        if not 1 <= self.loops <= self.model.num_tokens:
            raise ValueError(f"--loops must be in 1..{self.model.num_tokens}, the tokens of an image, got {self.loops}")
        check_seed(self.seed)
        self.learner.check("learner")


def main(config: Config) -> None:
    config = replace(config, model=replace(config.model, num_classes=config.classes or config.model.num_classes))
    storage = Storage.of(config.out)
    with locked(storage):
        storage.pull(*RECORDS)
        check_run_folder(storage, config, config.resume, config.overwrite)
        family = config.model.family
        codec = family.codec(config.vae, config.model)
        family.check_data(config.latents, config.model, codec.id)
        run = TeacherRun(
            model=config.model, data=config.latents.absolute(), learner=config.learner,
            init=config.init.absolute() if config.init else None, drop=config.drop, repeats=config.repeats, seed=config.seed,
        )  # fmt: skip
        if config.init:
            run.backbone()  # weights that do not fit are refused before Ray starts
        local_ray.begin()
        with handled(stop_now), plainly(storage.folder / ERRORS):
            check_resources(learner_demands(config.learner), node_resources())
            open_run_folder(storage, config, config.overwrite)
            last = train(run, storage, TEACHER)
            save_weights(storage.folder / TEACHER.student, read_state(last / AVERAGE), torch.float32)
            draw(config, storage.folder)
            storage.push()
    print(f"teacher: {storage}/{TEACHER.student}\npictures: {storage}/samples.png, {storage}/{TEACHER.plot}")


def draw(config: Config, folder: Path) -> None:
    """Draw the course of the losses, and pictures of the first classes."""
    groups = report.grouped(read_metrics(folder / TEACHER.metrics))
    if groups:  # a single row has no curve
        report.plot_losses(folder / TEACHER.plot, groups)
    device = own_device()
    model = load_model(folder / TEACHER.student, config.model).eval().requires_grad_(False).to(device)
    codec = config.model.family.codec(config.vae, config.model).to(device)
    labels = torch.arange(min(SHOWN_CLASSES, config.model.num_classes)).repeat_interleave(PICTURES)
    generation = Generation(model, codec, config.sampler, config.loops)
    images = generation.images(Prompts.of_labels(labels), config.seed, progress=f"pictures N_AR={config.loops}")
    report.save_grid(folder / "samples.png", images, PICTURES, [f"class {label}" for label in labels[::PICTURES].tolist()])


def defaults(name: str) -> Config:
    """Return the settings of a preset."""
    files = PRESETS[name].files
    return Config(
        preset=name, latents=files.latents or tyro.MISSING, vae=files.vae or tyro.MISSING, model=MAR_MODELS[name], learner=TEACHERS[name],
        sampler=SAMPLERS[name],
    )  # fmt: skip


if __name__ == "__main__":
    try:
        cli.run(main, Config, __doc__, defaults(cli.preset_of(TEACHERS)))
    except Stopped as stop:
        print(stop, file=sys.stderr)
        sys.exit(128 + stop.number)
