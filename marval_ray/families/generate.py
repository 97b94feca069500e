"""Whole images from labels: AR sampling, then the autoencoder's decoder."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from tqdm import tqdm

from marval_ray.config import ModelConfig
from marval_ray.diffusion.samplers import OneStep, TokenSampler
from marval_ray.families.mar.codec import VAE
from marval_ray.families.mar.loop import Draws, sample_tokens
from marval_ray.families.mar.model import MAR, unpatchify
from marval_ray.files.images import crop_to


@dataclass(frozen=True)
class Generation:
    """A model with all that it needs to draw images; both modules are on the same device.

    loops: N_AR, the number of auto-regressive loops (1..number of tokens).
    """

    model: MAR
    vae: VAE
    sampler: TokenSampler
    loops: int = 64
    batch: int = 64

    def images(self, labels: Int64[Tensor, " N"], seed: int, progress: str | None = None) -> Float[Tensor, "N C H W"]:
        """Images in [-1, 1] on the CPU. Image i depends on (seed, i, labels[i]) alone, so batches do not matter.

        progress: title of a progress bar that counts images.
        """
        with tqdm(total=len(labels), desc=progress, unit="image", disable=progress is None) as bar:
            parts = []
            for part in self._batches(labels, seed):
                parts.append(part.cpu())
                bar.update(len(part))
        return torch.cat(parts)

    @torch.inference_mode()
    def _batches(self, labels: Tensor, seed: int) -> Iterator[Tensor]:
        c = self.model.config
        device = self.model.mask_token.device
        for indices in torch.arange(len(labels)).split(self.batch):
            draws = Draws.from_seed(seed, indices.tolist(), c.num_tokens, c.token_channels, self.sampler.noise_steps)
            tokens = sample_tokens(self.model, self.sampler, labels[indices].to(device), draws.to(device), self.loops)
            yield decode_tokens(tokens, self.vae, c)


def decode_tokens(tokens: Float[Tensor, "N L D"], vae: VAE, config: ModelConfig) -> Float[Tensor, "N C H W"]:
    """Images in [-1, 1]."""
    return crop_to(vae.decode(unpatchify(tokens, config.patch_size)).float().clamp(-1, 1), config.image_size)


def student_generation(model: MAR, vae: VAE, loops: int = 64, batch: int = 64) -> Generation:
    """One diffusion step a token at the model's own t*."""
    return Generation(model, vae, OneStep(model.config.student_timestep), loops, batch)


def class_labels(num_classes: int, count: int) -> Int64[Tensor, " N"]:
    """`count` labels that go through the classes in turn: 0, 1, ..., 0, 1, ..."""
    return torch.arange(count) % num_classes
