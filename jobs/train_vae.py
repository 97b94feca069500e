"""Train the embedded autoencoder (32 x 32 grey images to 8 x 8 x 4 latents) and save it as a diffusers folder."""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
import tyro
from diffusers import AutoencoderKL
from torch import Tensor
from tqdm import tqdm

from marval_ray.images import pad_to, read_images, to_tensor
from marval_ray.models import vae


@dataclass(frozen=True)
class Config:
    images: Path = Path("data/fashion-mnist/train.parquet")
    out: Path = Path("runs/vae")
    steps: int = 3000
    batch: int = 64
    lr: float = 2e-3
    kl_weight: float = 1e-4
    """Weight of the KL term, summed over latents and divided by the number of pixels."""
    seed: int = 0


def loss(autoencoder: AutoencoderKL, images: Tensor, kl_weight: float) -> tuple[Tensor, dict[str, float]]:
    """L1 + MSE reconstruction and a weak KL to N(0, I)."""
    posterior = autoencoder.encode(images).latent_dist
    decoded = autoencoder.decode(posterior.sample()).sample
    mse, l1 = F.mse_loss(decoded, images), F.l1_loss(decoded, images)
    kl = posterior.kl().mean() / images[0].numel()
    return mse + l1 + kl_weight * kl, {"mse": mse.item(), "l1": l1.item(), "kl": kl.item()}


@torch.no_grad()
def normalise(autoencoder: AutoencoderKL, images: Tensor) -> None:
    """Record mean and standard deviation of each latent channel in the config."""
    batches = [autoencoder.encode(part).latent_dist.sample() for part in images.split(256)]
    latents = torch.cat(batches).transpose(0, 1).flatten(1)
    autoencoder.register_to_config(latents_mean=latents.mean(1).tolist(), latents_std=latents.std(1).tolist())


def main(config: Config) -> None:
    torch.manual_seed(config.seed)
    pixels, _ = read_images(config.images)
    images = pad_to(to_tensor(pixels), vae.TINY["sample_size"])
    autoencoder = AutoencoderKL(**vae.TINY)
    optimizer = torch.optim.AdamW(autoencoder.parameters(), lr=config.lr, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, config.steps, pct_start=0.05)
    bar = tqdm(range(config.steps), desc="vae")
    for _ in bar:
        batch = images[torch.randint(len(images), (config.batch,))]
        value, metrics = loss(autoencoder, batch, config.kl_weight)
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(autoencoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        bar.set_postfix({k: f"{v:.4f}" for k, v in metrics.items()})
    normalise(autoencoder.eval(), images[:5000])
    autoencoder.save_pretrained(config.out, safe_serialization=True)
    print(f"saved {config.out}")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
