"""Train the embedded autoencoder (32 x 32 grey images to 8 x 8 x 4 latents) and save it as a diffusers folder.

Two passes, as the embedded one was made:

    python jobs/embedded/train_vae.py --out runs/vae
    python jobs/embedded/train_classifier.py --seed 1 --epochs 2 --out runs/perceptual.safetensors
    python jobs/embedded/train_vae.py --decoder-of runs/vae --perceptual runs/perceptual.safetensors --out runs/vae-sharp

The second pass keeps the encoder, hence all latents, and sharpens the decoder. Its perceptual loss uses a classifier of
its own, never the one that evaluates. --latent-noise teaches the decoder to read latents that are slightly off, as those
of any generator are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from tqdm import tqdm

from marval_ray import cli
from marval_ray.config import check_seed
from marval_ray.embedded.reconstruction import reconstruction
from marval_ray.evaluation.features import ARCHITECTURES, load_features
from marval_ray.families.mar import autoencoder as vae
from marval_ray.files.images import pad_to, read_images, to_tensor

Loss = Callable[[AutoencoderKL, Tensor], tuple[Tensor, dict[str, float]]]


@dataclass(frozen=True)
class Config:
    images: Path = Path("data/fashion-mnist/train.parquet")
    out: Path = Path("runs/vae")
    decoder_of: Path | None = None
    """Start from this diffusers folder and train its decoder only."""
    perceptual: Path | None = None
    """Classifier (jobs/embedded/train_classifier.py) whose feature maps join the reconstruction loss."""
    perceptual_weight: float = 1.0
    latent_noise: float = 0.0
    """Add noise to the decoder's input: for each image N(0, s^2) in units of a channel's deviation, s ~ U(0, this)."""
    steps: int = 3000
    batch: int = 64
    lr: float = 2e-3
    kl_weight: float = 1e-4
    """Weight of the KL term, summed over latents and divided by the number of pixels."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.latent_noise and not self.decoder_of:
            raise ValueError("--latent-noise is in units of known deviations: it needs --decoder-of")
        check_seed(self.seed)


def make_loss(config: Config) -> Loss:
    classifier = load_features(config.perceptual, ARCHITECTURES.values()) if config.perceptual else None

    def loss(autoencoder: AutoencoderKL, images: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Return reconstruction, and a weak KL to N(0, I)."""
        posterior = autoencoder.encode(images).latent_dist
        latents = posterior.sample()
        if config.latent_noise:
            latents = latents + config.latent_noise * off_by(latents, autoencoder.config.latents_std)
        value = reconstruction(autoencoder.decode(latents).sample, images, classifier, config.perceptual_weight)
        kl = posterior.kl().mean() / images[0].numel()
        return value + config.kl_weight * kl, {"reconstruction": value.item(), "kl": kl.item()}

    return loss


def off_by(latents: Tensor, deviations: list[float]) -> Tensor:
    """Draw noise of another strength, up to one deviation of the channel, for each image."""
    strength = torch.rand(len(latents), 1, 1, 1)
    return strength * torch.tensor(deviations).reshape(1, -1, 1, 1) * torch.randn_like(latents)


@torch.no_grad()
def normalise(autoencoder: AutoencoderKL, images: Tensor) -> None:
    """Record mean and standard deviation of each latent channel in the config."""
    batches = [autoencoder.encode(part).latent_dist.sample() for part in images.split(256)]
    latents = torch.cat(batches).transpose(0, 1).flatten(1)
    autoencoder.register_to_config(latents_mean=latents.mean(1).tolist(), latents_std=latents.std(1).tolist())


def start(config: Config) -> AutoencoderKL:
    """Return a new autoencoder, or a trained one of which only the decoder will learn."""
    if config.decoder_of is None:
        return AutoencoderKL(**vae.TINY)
    autoencoder = vae.load_vae(config.decoder_of).autoencoder
    for part in (autoencoder.decoder, autoencoder.post_quant_conv):
        part.requires_grad_(True)
    return autoencoder


def main(config: Config) -> None:
    torch.manual_seed(config.seed)
    autoencoder = start(config)
    pixels, _ = read_images(config.images)
    images = pad_to(to_tensor(pixels), vae.TINY_SIZE)
    loss = make_loss(config)
    learnt = [p for p in autoencoder.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=config.lr, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, config.steps, pct_start=0.05)
    bar = tqdm(range(config.steps), desc="vae")
    for _ in bar:
        value, metrics = loss(autoencoder, images[torch.randint(len(images), (config.batch,))])
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(learnt, 1.0)
        optimizer.step()
        schedule.step()
        bar.set_postfix({k: f"{v:.4f}" for k, v in metrics.items()})
    if config.decoder_of is None:
        normalise(autoencoder.eval(), images[:5000])
    autoencoder.save_pretrained(config.out, safe_serialization=True)
    print(f"saved {config.out}")


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
