"""The normaliser of an autoencoder's latents, measured: their mean and standard deviation, for all channels or by channel.

Values within an image go together, so standard errors are of images: n independent images i with means m_i and variances v_i
of their values. With m the mean of m_i and s_i = v_i + (m_i - m)^2, the variance is the mean of s_i.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from marval_ray.families.mar.detok_codec import DETOK
from marval_ray.families.mar.vae import VAE
from marval_ray.files.atomic import write_json
from marval_ray.files.text import read_json


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation with their standard errors, of K channels or, with K = 1, of all values."""

    mean: Float64[Tensor, " K"]
    mean_se: Float64[Tensor, " K"]
    std: Float64[Tensor, " K"]
    std_se: Float64[Tensor, " K"]

    @classmethod
    def of(cls, means: Float64[Tensor, "N K"], variances: Float64[Tensor, "N K"]) -> "Spread":
        """Return those of N images of as many values each, by the means and variances of their values."""
        mean, root = means.mean(0), len(means) ** 0.5
        squares = variances + (means - mean) ** 2
        std = squares.mean(0).sqrt()
        return cls(mean, means.std(0) / root, std, squares.std(0) / root / (2 * std))


@dataclass(frozen=True)
class ImageMoments:
    """Means and variances of the latents of each image, by channel."""

    means: Float64[Tensor, "N C"]
    variances: Float64[Tensor, "N C"]

    @classmethod
    def of(cls, latents: Float[Tensor, "N C h w"]) -> "ImageMoments":
        values = latents.double().flatten(2)
        return cls(values.mean(2), values.var(2, correction=0))

    @classmethod
    def cat(cls, parts: Iterable["ImageMoments"]) -> "ImageMoments":
        means, variances = zip(*((part.means, part.variances) for part in parts))
        return cls(torch.cat(means), torch.cat(variances))

    def channels(self) -> Spread:
        """Return the spread of each channel."""
        return Spread.of(self.means, self.variances)

    def all(self) -> Spread:
        """Return the spread of all values."""
        mean = self.means.mean(1, keepdim=True)
        return Spread.of(mean, (self.variances + (self.means - mean) ** 2).mean(1, keepdim=True))


def draw_latents(vae: VAE, images: Float[Tensor, "N c H W"], random: torch.Generator) -> Float[Tensor, "N C h w"]:
    """Draw from the posteriors of images in [-1, 1], and return the latents on the CPU as the network has them, not normalised."""
    moments = vae.encode(images)
    noise = torch.randn(moments.mean.shape, generator=random).to(moments.mean.device)
    return vae.denormalise(moments.mean + moments.std * noise).cpu()


def config_entries(spread: Spread) -> dict[str, float | list[float]]:
    """Return what a config holds of a normaliser, under diffusers' names: a shift and a factor for all, or lists by channel."""
    if len(spread.mean) == 1:
        return {"shift_factor": spread.mean.item(), "scaling_factor": 1 / spread.std.item()}
    return {"latents_mean": spread.mean.tolist(), "latents_std": spread.std.tolist()}


def check_config(vae: Path, by_channel: bool) -> None:
    """Raise ValueError when an autoencoder has no config that could hold such a normaliser."""
    if not vae.is_dir():
        raise ValueError(f"{vae} is a file, which cannot hold a normaliser: convert it into a folder of diffusers first")
    if read_json(vae / "config.json").get("_class_name") == DETOK and not by_channel:
        raise ValueError(f"{vae} is DeTok's, whose normaliser is by channel: --write channels")


def write_normaliser(vae: Path, spread: Spread) -> None:
    """Put the normaliser into the config of an autoencoder's folder, in the place of the one that it has."""
    config = read_json(vae / "config.json")
    for name in ("latents_mean", "latents_std"):
        config.pop(name, None)
    write_json(vae / "config.json", config | config_entries(spread))
