"""Distil a MAR teacher into a one-step student by guided score implicit matching (GSIM), on Ray.

Runs alike as `python jobs/distill.py` (starts a local Ray), under `ray job submit --working-dir . -- python
jobs/distill.py`, and against the cluster that RAY_ADDRESS names. Without options it distils the embedded teacher.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

# Ray's workers would otherwise yield to every other process of the machine.
os.environ.setdefault("RAY_worker_niceness", "0")

import ray
import torch
import tyro

from actors.learner import GSIMRun
from actors.recorder import read_metrics
from actors.trainer import check_resources, node_resources, train_gsim
from marval_ray import assets_index, cli
from marval_ray.config import GSIM_PRESETS, GSIMConfig, LearnerConfig, ModelConfig
from marval_ray.data import check_latents
from marval_ray.figures import Figures, FiguresConfig
from marval_ray.run_folder import check_run_folder, open_run_folder
from marval_ray.weights import load_model, read_state, save_weights


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
    figures: FiguresConfig = field(default_factory=FiguresConfig)
    out: Path = Path("runs/distill")
    seed: int = 0
    resume: bool = False
    """Continue the run in OUT from its last checkpoint."""
    overwrite: bool = False
    """Throw away the run in OUT."""

    def __post_init__(self) -> None:
        if self.resume and self.overwrite:
            raise ValueError("--resume and --overwrite exclude each other")


def main(config: Config) -> None:
    began = time.perf_counter()
    config = replace(config, out=lasting(config.out))
    check_run_folder(config.out, config, config.resume, config.overwrite)
    check_latents(config.latents, config.model.latent_shape)
    teacher = load_model(config.teacher, config.model)
    figures = Figures(config.figures, config.vae, config.out)
    ray.init()
    check_resources(config.learner, node_resources())
    open_run_folder(config.out, config, config.overwrite)
    print((config.out / "config.json").read_text())
    figures.before(teacher)
    seconds_gsim = distil(config)
    figures.after(load_model(config.out / "student.safetensors"))
    seconds = {"seconds_gsim": seconds_gsim, "seconds_total": time.perf_counter() - began}
    figures.write(asdict(config), read_metrics(config.out / "metrics.jsonl"), seconds)
    print(f"student: {config.out / 'student.safetensors'}\nreport:  {config.out / 'report.html'}")


def lasting(out: Path) -> Path:
    """`out`, absolute. Ray deletes a submitted job's copy of the working directory, so there it is put under home."""
    inside_copy = "runtime_resources" in Path.cwd().parts
    return (Path.home() if inside_copy else Path.cwd()) / out


def distil(config: Config) -> float:
    """Train, and write the averaged student; the seconds it took, Ray's set-up included."""
    began = time.perf_counter()
    run = GSIMRun(
        config.model, config.gsim, config.learner, config.teacher.absolute(), config.latents.absolute(), config.seed
    )
    last = train_gsim(run, config.out)
    save_weights(config.out / "student.safetensors", read_state(last / "ema.safetensors"), torch.float32)
    return time.perf_counter() - began


def preset_of(arguments: Sequence[str] | None = None) -> str:
    """The value of --preset, which has to be known before the other options have defaults."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset", default="tiny")
    name = parser.parse_known_args(arguments)[0].preset
    if name not in GSIM_PRESETS:
        sys.exit(f"error: --preset {name!r} is unknown; choose one of {', '.join(GSIM_PRESETS)}")
    return name


def defaults(name: str) -> Config:
    """Published models bring no files along: their teacher, latents and autoencoder must be named."""
    preset = GSIM_PRESETS[name]
    if name == "tiny":
        files = (assets_index.TEACHER, assets_index.LATENTS, assets_index.VAE)
        return Config(name, *files, preset.model, preset.gsim, preset.learner, FiguresConfig.embedded())
    return Config(name, *(tyro.MISSING,) * 3, preset.model, preset.gsim, preset.learner)


if __name__ == "__main__":
    cli.run(main, Config, __doc__, defaults(preset_of()))
