"""Seconds an image of each part of the pipeline on one GPU (or the CPU, where there is none), with random weights.

    python bench/gpu.py
    python bench/gpu.py --presets mar-h --json mar-h.json

Sampling is of tokens, without the decoder, "graphs" in bfloat16 by CUDA graphs; the reward is KL-16's decoder and a CLIP of PickScore's
size, with gradient; the replay is the learner's, of all loops with gradient; GSIM is whole updates, with DeepSpeed.
"""

import gc
import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
import torch.distributed as dist
from learners import gsim_update, replay_update
from records import PRESETS
from sampling import random_model, seconds_of
from torch import Tensor
from transformers import CLIPModel

from marval_ray import cli
from marval_ray.device import autocast_on_gpu, own_device
from marval_ray.diffusion.samplers import Ancestral, TokenSampler
from marval_ray.draws import Draws
from marval_ray.embedded import assets_index
from marval_ray.evaluation.metrics import markdown_table
from marval_ray.families.mar.autoencoder import KL16, KLVAE, load_vae
from marval_ray.families.mar.codec import KLCodec
from marval_ray.families.mar.config import ModelConfig
from marval_ray.families.mar.graphs import SWITCH, draw_loops
from marval_ray.families.mar.loop import Randomness
from marval_ray.files.atomic import write_json
from marval_ray.plan.workers import PICKSCORE, SizedReward
from marval_ray.reinforce.scoring import Scorer
from marval_ray.types import Prompts, Tokens

DEVICE = own_device()
TEACHER = Ancestral(steps=100, cfg=3.0)
Preset = Literal["mar-b", "mar-l", "mar-h", "tiny"]
Part = Literal[
    "student", "student bf16", "student graphs", "one image bf16", "one image graphs", "teacher bf16", "reward", "replay", "gsim",
]  # fmt: skip


@dataclass(frozen=True)
class Config:
    presets: tuple[Preset, ...] = ("mar-b", "mar-l", "mar-h")
    parts: tuple[Part, ...] = get_args(Part)
    """Of all that can be measured."""
    batch: int = 64
    """Images of a batch of sampling, and of an update of GSIM."""
    scored: int = 16
    """Images that are scored at once."""
    replayed: int = 8
    """Images of an update of RL."""
    loops: int = 64
    repeats: int = 2
    """The best of so many counts, after one that does not."""
    json: Path | None = None
    """Also write the figures to this file."""


@dataclass(frozen=True)
class Measured:
    preset: str
    part: str
    batch: int
    seconds: float
    """An image."""
    gigabytes: float
    """Most memory that PyTorch held on the GPU."""


def measure(action: Callable[[], object], repeats: int) -> float:
    """Seconds of the best of `repeats`, after a warm-up."""

    def whole() -> None:
        action()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    whole()
    return min(seconds_of(whole) for _ in range(repeats))


def random_of(c: ModelConfig, batch: int, steps: int = 0) -> tuple[Randomness, Tensor]:
    """(orders and noise, labels)."""
    random = Randomness.of(Draws(0, tuple(range(batch))), c.num_tokens, c.token_channels, steps)
    return random.to(DEVICE), torch.arange(batch, device=DEVICE) % c.num_classes


def sampling(c: ModelConfig, config: Config, sampler: TokenSampler, dtype: torch.dtype, batch: int, graphs: bool = False) -> float:
    model = random_model(c, DEVICE).to(dtype)
    random, labels = random_of(c, batch, sampler.noise_steps)
    os.environ[SWITCH] = str(int(graphs))

    @torch.inference_mode()
    def draw() -> None:
        *_, _ = draw_loops(model, sampler, labels, random, config.loops)

    if graphs:
        draw()  # they are captured for a size that comes back
    with autocast_on_gpu(DEVICE) if dtype == torch.float32 else nullcontext():
        return measure(draw, config.repeats)


def scoring(c: ModelConfig, config: Config, batch: int) -> float:
    with DEVICE:  # where random weights are made at once
        vae = load_vae(assets_index.VAE) if c.latent_channels != KL16.z_channels else KLVAE(KL16.build())
        reward = SizedReward(CLIPModel(PICKSCORE))
    scorer = Scorer(KLCodec(vae.to(DEVICE), c), reward)
    random, _ = random_of(c, batch)
    tokens, prompts = Tokens(random.initial), Prompts.classes_in_turn(c.num_classes, batch)
    return measure(lambda: scorer(tokens, prompts), config.repeats)


def replaying(c: ModelConfig, config: Config, batch: int) -> float:
    return measure(replay_update(c, batch, config.loops, config.loops, DEVICE), config.repeats)


def distilling(preset: str, config: Config, batch: int) -> float:
    """Whole updates of both networks."""
    with gsim_update(preset, batch, DEVICE) as update:
        return measure(update, config.repeats)


def parts_of(preset: Preset, config: Config) -> dict[Part, tuple[int, Callable[[int], float]]]:
    """(batch, what measures the seconds of one) of each part."""
    c, bf16 = PRESETS[preset].model, torch.bfloat16
    one_step = c.one_step
    return {
        "student": (config.batch, lambda batch: sampling(c, config, one_step, torch.float32, batch)),
        "student bf16": (config.batch, lambda batch: sampling(c, config, one_step, bf16, batch)),
        "student graphs": (config.batch, lambda batch: sampling(c, config, one_step, bf16, batch, graphs=True)),
        "one image bf16": (1, lambda batch: sampling(c, config, one_step, bf16, batch)),
        "one image graphs": (1, lambda batch: sampling(c, config, one_step, bf16, batch, graphs=True)),
        "teacher bf16": (config.batch, lambda batch: sampling(c, config, TEACHER, bf16, batch)),
        "reward": (config.scored, lambda batch: scoring(c, config, batch)),
        "replay": (config.replayed, lambda batch: replaying(c, config, batch)),
        "gsim": (config.batch, lambda batch: distilling(preset, config, batch)),
    }


def main(config: Config) -> None:
    os.environ["LOCAL_RANK"] = "0"  # DeepSpeed asks for it
    dist.init_process_group("nccl" if DEVICE.type == "cuda" else "gloo", store=dist.HashStore(), rank=0, world_size=1)
    print(torch.cuda.get_device_name() if DEVICE.type == "cuda" else f"CPU, {torch.get_num_threads()} threads", flush=True)
    results = []
    for preset in config.presets:
        for part in config.parts:
            batch, work = parts_of(preset, config)[part]
            gc.collect()
            if DEVICE.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            seconds = work(batch) / batch
            memory = torch.cuda.max_memory_allocated() / 1e9 if DEVICE.type == "cuda" else 0.0
            results.append(Measured(preset, part, batch, seconds, memory))
            print(f"{preset} {part}: {1000 * seconds:.2f} ms an image, {memory:.1f} GB", flush=True)
            if config.json:
                write_json(config.json, [asdict(result) for result in results])
    rows = [[r.preset, r.part, str(r.batch), f"{1000 * r.seconds:.2f}", f"{r.gigabytes:.1f}"] for r in results]
    print(markdown_table(["model", "part", "batch", "ms an image", "GB"], rows))
    dist.destroy_process_group()


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
