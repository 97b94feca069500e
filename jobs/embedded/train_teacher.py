"""Train a MAR teacher on Parquet latents in one process (CPU or one GPU): AdamW, EMA, cosine learning rate.

It exists for the embedded default; published MAR checkpoints need no training here.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from marval_ray import cli
from marval_ray.average import EMA
from marval_ray.config import check_seed, lr_factor
from marval_ray.device import own_device
from marval_ray.diffusion.schedule import cosine_diffusion
from marval_ray.distil.denoising import Noising, context_loss
from marval_ray.embedded.training_state import Part, load_state, save_state
from marval_ray.families.mar.config import Masking
from marval_ray.families.mar.masking import drop_labels, mask_tokens
from marval_ray.families.mar.model import MAR, patchify
from marval_ray.files.fit import load_strictly
from marval_ray.files.latents import LatentDataset, check_latents
from marval_ray.files.tensors import read_state
from marval_ray.hub.layout import save_model
from marval_ray.positions import gather_tokens
from marval_ray.presets import MAR_MODELS, ClassPresetName


@dataclass(frozen=True)
class Config:
    latents: Path = Path("data/fashion-mnist/latents-train.parquet")
    preset: ClassPresetName = "tiny"
    masking: Masking | None = None
    """What contexts hide; by default as the preset says."""
    out: Path = Path("runs/teacher")
    init: Path | None = None
    """Start from the weights of this checkpoint; by default from random ones."""
    steps: int = 7500
    batch: int = 32
    repeats: int = 2
    """Draws of (timestep, noise) for each token in a step."""
    lr: float = 1e-3
    warmup: int = 300
    weight_decay: float = 0.02
    ema: float = 0.999
    label_drop: float = 0.1
    bf16: bool = False
    """Round to bfloat16 in matrix products: 1.3 times as fast on CPUs that have instructions for it, 1.5 times on one thread."""
    seed: int = 0
    save_every: int = 500
    stop_after: int | None = None
    """End after this update, on the learning-rate schedule of `steps`; --resume goes on."""
    resume: bool = False
    """Continue from OUT/state.pt."""

    def __post_init__(self) -> None:
        check_seed(self.seed)


def train_step(model: MAR, dataset: LatentDataset, step: int, config: Config) -> dict[str, Tensor]:
    """Back-propagate one batch; all draws come from (seed, step)."""
    device = model.device
    generator = torch.Generator().manual_seed((config.seed * 1_000_003 + step) % 2**63)
    latents, labels = dataset.batch(config.seed, step, config.batch)
    labels = drop_labels(labels, model.config.num_classes, config.label_drop, generator)
    c = model.config
    context = mask_tokens(patchify(latents, c.patch_size), labels, c.masking, generator)
    noising = Noising.draw(context.hidden.numel() * config.repeats, c.token_channels, generator)
    context = context.to(device)
    target = gather_tokens(context.tokens, context.hidden)
    with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
        loss = context_loss(model, context, target, noising.to(device), cosine_diffusion(device=device))
    loss.value.backward()
    return loss.metrics


def main(config: Config) -> None:
    torch.manual_seed(config.seed)
    device = own_device()
    c = MAR_MODELS[config.preset]
    c = replace(c, masking=config.masking or c.masking)
    check_latents(config.latents, c.latent_shape, c.num_classes)
    dataset = LatentDataset(config.latents, c.latent_shape)
    model = MAR(c).to(device)
    if config.init:
        load_strictly(model, read_state(config.init), config.init)
    ema = EMA(dict(model.named_parameters()), config.ema, EMA.warm_start_of(config.steps, config.ema))
    optimizer = torch.optim.AdamW(model.parameters(), config.lr, betas=(0.9, 0.95), weight_decay=config.weight_decay)
    parts: dict[str, Part] = {"model": model, "ema": ema, "optimizer": optimizer}
    start = load_state(config.out, parts) if config.resume else 0
    end = min(config.steps, config.stop_after or config.steps)
    bar = tqdm(range(start, end), desc="teacher", initial=start, total=config.steps, mininterval=5)
    average = None
    for step in bar:
        metrics = train_step(model, dataset, step, config)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = config.lr * lr_factor(step, config.steps, config.warmup, end=0.0)
        optimizer.step()
        optimizer.zero_grad()
        ema.update(dict(model.named_parameters()))
        average = metrics["mse"].item() if average is None else 0.98 * average + 0.02 * metrics["mse"].item()
        bar.set_postfix(mse=f"{average:.4f}", refresh=False)
        if (step + 1) % config.save_every == 0 or step + 1 == end:
            save_state(config.out, step + 1, parts)
            save_model(config.out, "teacher", ema.shadow, c, torch.float32)


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
