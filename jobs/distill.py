"""Distil a MAR teacher into a one-step student by guided score implicit matching (GSIM), then raise a reward by
reinforcement learning (RL), on Ray. `--stages gsim` or `--stages rl` does one of them.

Runs alike as `python jobs/distill.py` (starts a local Ray), under `ray job submit --working-dir . -- python
jobs/distill.py`, and against the cluster that RAY_ADDRESS names. Without options it distils the embedded teacher.
"""

import argparse
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from marval_ray.environment import before_ray

before_ray()

import ray
import torch
import tyro

from actors.crew.painter import Elsewhere
from actors.errors import plainly
from actors.learning.gsim import GSIMRun
from actors.learning.plan import Plan
from actors.learning.reinforce import reinforce, role_demands, try_reward
from actors.learning.trainer import demand, train
from actors.recorder import METRICS, read_metrics
from actors.resources import check_resources, node_resources
from actors.signals import Stopped, handled
from marval_ray import cli
from marval_ray.config import GSIMConfig, GuardConfig, LearnerConfig, RLConfig, check_seed
from marval_ray.embedded import assets_index
from marval_ray.families.base import Backbone
from marval_ray.families.generation import Generation, Painter
from marval_ray.families.mar.config import ModelConfig
from marval_ray.files.fit import save_weights
from marval_ray.files.storage import ERRORS, Storage
from marval_ray.files.tensors import read_state
from marval_ray.hub.layout import load_model
from marval_ray.presets import PRESETS, SAMPLERS
from marval_ray.prompts import class_prompts, imagenet_names, read_prompts
from marval_ray.rewards import check_rewards
from marval_ray.runs.figures import Figures, FiguresConfig
from marval_ray.runs.folder import check_run_folder, open_run_folder
from marval_ray.runs.lock import locked
from marval_ray.types import Prompts

Result = TypeVar("Result")

REWARD_SAMPLES = 500
"""Images whose mean reward is compared before and after RL; it is known from fewer than FD."""


@dataclass(frozen=True)
class Config:
    preset: str
    """Defaults for all that follows: tiny (embedded), mar-b, mar-l or mar-h."""
    teacher: Path
    """MAR's checkpoint-last.pth, or safetensors."""
    latents: Path
    """Parquet written by jobs/encode.py: a file or a folder."""
    vae: Path
    """Decoder of the pictures: a diffusers folder, or KL-16's file."""
    model: ModelConfig
    gsim: GSIMConfig
    learner: LearnerConfig
    """Of the GSIM stage."""
    rl: RLConfig
    rl_learner: LearnerConfig
    """Of the RL stage."""
    guard: GuardConfig = field(default_factory=GuardConfig)
    figures: FiguresConfig = field(default_factory=FiguresConfig)
    stages: Literal["gsim,rl", "gsim", "rl"] = "gsim,rl"
    student: Path | None = None
    """A student to start from, for --stages rl."""
    prompts: Path | None = None
    """A text file with a prompt for each class; by default the classes' names in a template."""
    out: str = "runs/distill"
    """A folder, s3://BUCKET/... or gs://BUCKET/...."""
    seed: int = 0
    resume: bool = False
    """Continue the run in OUT from its last checkpoint."""
    overwrite: bool = False
    """Throw away the run in OUT."""

    def __post_init__(self) -> None:
        if self.resume and self.overwrite:
            raise ValueError("--resume and --overwrite exclude each other")
        if (self.student is None) == (self.stages == "rl"):
            raise ValueError("--student goes with --stages rl, which needs it")
        check_seed(self.seed)


def main(config: Config) -> None:
    storage = Storage.of(config.out)
    with locked(storage):
        storage.pull()
        check_run_folder(storage, config, config.resume, config.overwrite)
        family = config.model.family
        codec = family.codec(config.vae, config.model)
        figures = Figures(config.figures, codec, storage.folder, painter(config))
        family.check_data(config.latents, config.model, codec.id)
        if "rl" in config.stages:
            check_rewards(config.rl.rewards)
            plan_of(config, storage)
        first = load_model(config.student or config.teacher, config.model)
        ray.init()
        with handled(stop_now), plainly(storage.folder / ERRORS):
            check_resources(demands(config), node_resources())
            open_run_folder(storage, config, config.overwrite)
            print((storage.folder / "config.json").read_text(encoding="utf-8"))
            work(config, storage, figures, first)
            storage.push()
    print(f"student: {storage}/student.safetensors\nreport:  {storage}/report.html")


def stop_now(number: signal.Signals) -> None:
    """Between the stages nothing waits for a checkpoint."""
    raise Stopped(number, f"stopped on {number.name}; --resume goes on")


def work(config: Config, storage: Storage, figures: Figures, first: Backbone) -> None:
    """The stages, and what is shown of them."""
    began = time.perf_counter()
    student = student_of_gsim(config, storage)
    extra: dict[str, float] = {}
    if config.stages == "gsim,rl":
        try_reward(plan_of(config, storage))
    if "gsim" in config.stages:
        figures.before(first, config.rl.loops if "rl" in config.stages else config.figures.loops[-1])
        _, extra["seconds_gsim"] = timed(distil, config, storage, student)
    if "rl" not in config.stages:
        figures.distilled(load_model(student, config.model))
    else:
        figures.before_rl(load_model(student, config.model), config.rl.loops)
        outcome, extra["seconds_rl"] = timed(reinforce, plan_of(config, storage), storage)
        extra |= {name: value for name, value in asdict(outcome).items() if name != "checkpoint"}
        student = outcome.checkpoint
        figures.reinforced(load_model(student, config.model), config.rl.loops)
    save_weights(storage.folder / "student.safetensors", read_state(student), torch.float32)
    metrics = {stage: read_metrics(storage.folder / METRICS[stage]) for stage in config.stages.split(",")}
    if "rl" in metrics:
        extra["rl_updates"] = metrics["rl"][-1]["step"]
    figures.write(asdict(config), metrics, extra | {"seconds_total": time.perf_counter() - began})


def student_of_gsim(config: Config, storage: Storage) -> Path:
    """What RL starts from."""
    return config.student or storage.folder / "student-gsim.safetensors"


def painter(config: Config) -> Callable[[Generation], Painter]:
    """Pictures are drawn here, unless here is a machine without GPU of a cluster with some."""
    learner = config.rl_learner if config.stages == "rl" else config.learner
    gpus = min(1.0, learner.gpus_per_worker)
    if not gpus or torch.cuda.is_available():
        return lambda here: here
    return lambda here: Elsewhere(here, gpus)


def timed(work: Callable[..., Result], *arguments: object) -> tuple[Result, float]:
    """(result, seconds)."""
    began = time.perf_counter()
    return work(*arguments), time.perf_counter() - began


def demands(config: Config) -> dict[str, list[dict[str, float]]]:
    """Resources that each stage takes at once, by role."""
    stages = {
        "gsim": {"learner": [demand(config.learner)] * config.learner.workers},
        "rl": {"learner": [demand(config.rl_learner)] * config.rl_learner.workers}
        | role_demands(config.rl, config.figures.judge() is not None),
    }
    return max((stages[stage] for stage in config.stages.split(",")), key=lambda roles: sum(len(needs) for needs in roles.values()))


def prompts_of(config: Config) -> tuple[str, ...]:
    """One of each class."""
    if config.prompts is not None:
        return tuple(read_prompts(config.prompts, config.model.num_classes))
    names = config.figures.class_names
    if not names and config.model.num_classes == 1000:
        names = imagenet_names()
    if len(names) != config.model.num_classes:
        raise ValueError(f"RL needs a prompt for each of {config.model.num_classes} classes: give --prompts FILE")
    return tuple(class_prompts(names))


def plan_of(config: Config, storage: Storage) -> Plan:
    """The RL stage. Raises ValueError when its settings or prompts do not fit."""
    return Plan(
        config.model, config.rl, config.guard, config.rl_learner, student_of_gsim(config, storage).absolute(),
        gsim_run(config, config.rl_learner), config.vae.absolute(), Prompts.of_classes(prompts_of(config)), config.figures.judge(),
        min(REWARD_SAMPLES, config.figures.samples), config.seed,
    )  # fmt: skip


def distil(config: Config, storage: Storage, student: Path) -> None:
    """Train, and write the averaged student."""
    last = train(gsim_run(config, config.learner), storage)
    save_weights(student, read_state(last / "ema.safetensors"), torch.float32)
    storage.push(student.name)


def gsim_run(config: Config, learner: LearnerConfig) -> GSIMRun:
    return GSIMRun(config.model, config.gsim, learner, config.teacher.absolute(), config.latents.absolute(), config.seed)


def preset_of(arguments: Sequence[str] | None = None) -> str:
    """The value of --preset, which has to be known before the other options have defaults."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset", default="tiny")
    name = parser.parse_known_args(arguments)[0].preset
    if name not in PRESETS:
        sys.exit(f"error: --preset {name!r} is unknown; choose one of {', '.join(PRESETS)}")
    return name


def defaults(name: str) -> Config:
    """Published models bring no files along: their teacher, latents and autoencoder must be named."""
    p = PRESETS[name]
    files = (tyro.MISSING,) * 3
    figures = FiguresConfig(sampler=SAMPLERS[name])
    if name == "tiny":
        files, figures = (assets_index.TEACHER, assets_index.LATENTS, assets_index.VAE), FiguresConfig.embedded()
    teacher, latents, vae = files
    return Config(name, teacher, latents, vae, p.model, p.gsim, p.learner, p.rl, p.rl_learner, p.guard, figures)


if __name__ == "__main__":
    try:
        cli.run(main, Config, __doc__, defaults(preset_of()))
    except Stopped as stop:
        print(stop, file=sys.stderr)
        sys.exit(128 + stop.number)
