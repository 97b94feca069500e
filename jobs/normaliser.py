"""Measure the normaliser of an autoencoder of one's own: mean and standard deviation of the latents that it makes of images.

    python jobs/normaliser.py --images imagenet/train --vae codecs/mine
    python jobs/normaliser.py --images imagenet/train --vae codecs/mine --write channels

Do this before jobs/encode.py: a one-step student needs latents of about zero mean and unit variance.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from actors.encoder import Batch, Decoder
from actors.image_options import ImageOptions
from marval_ray import cli
from marval_ray.config import check_at_least
from marval_ray.device import own_device
from marval_ray.families.mar.autoencoder import load_vae
from marval_ray.families.mar.normaliser import ImageMoments, Spread, check_config, config_entries, draw_latents, write_normaliser
from marval_ray.families.mar.vae import codec_id
from marval_ray.files.image_set import ImageSet
from marval_ray.files.images import to_tensor


@dataclass(frozen=True, kw_only=True)
class Config(ImageOptions):
    count: int = 10_000
    """Images, a random choice; all where there are fewer. Those that cannot be decoded are listed and left out."""
    batch: int = 64
    """Images encoded at a time."""
    seed: int = 0
    """Of the choice of images and of the draws from their posteriors."""
    write: Literal["number", "channels"] | None = None
    """Put the result into the autoencoder's config.json: one shift and factor for all channels, as MAR has it, or one for each."""

    def __post_init__(self) -> None:
        check_at_least(1, self, "batch", prefix="--")
        check_at_least(2, self, "count", prefix="--")


def main(config: Config) -> None:
    if config.write:
        check_config(config.vae, config.write == "channels")
    images, vae = config.find(skip_bad=True), load_vae(config.vae)
    decoder = config.decoder(vae.sizes)
    vae, random = vae.to(own_device()), torch.Generator().manual_seed(config.seed)
    chosen = np.random.default_rng(config.seed).choice(len(images), min(config.count, len(images)), replace=False)
    pixels = decoded(images.pick(np.sort(chosen)), decoder, config.batch)
    parts = [ImageMoments.of(draw_latents(vae, part.to(own_device()), random)) for part in pixels]
    if sum(len(part.means) for part in parts) < 2:
        raise ValueError(f"{config.images} holds fewer than two images that can be decoded")
    tell(config.vae, ImageMoments.cat(parts))
    if config.write:
        keep(config.vae, ImageMoments.cat(parts), config.write)


def decoded(images: ImageSet, decoder: Decoder, size: int) -> Iterator[Float[Tensor, "N c H W"]]:
    """Yield at most `size` images at a time, in [-1, 1]; those that cannot be decoded are listed."""
    with tqdm(desc="encoded", total=len(images), unit="image", mininterval=5) as bar:
        for table in images.read_here():
            for rows in table.to_batches(max_chunksize=size):
                batch: Batch = decoder({name: rows[name].to_numpy(zero_copy_only=False) for name in rows.schema.names})
                for fault in filter(None, batch["fault"]):
                    bar.write(f"left out: {fault}", file=sys.stderr)
                good = batch["fault"] == ""
                if good.any():
                    yield to_tensor(batch["pixels"][good])
                bar.update(len(rows))


def tell(vae: Path, moments: ImageMoments) -> None:
    """Print mean and standard deviation with standard errors, and the entries of a config that hold them."""
    everything, channels = moments.all(), moments.channels()
    print(f"latents of {len(moments.means):,} images by {vae}, as its network has them:")
    print(f"  all values: {row(everything, 0)}")
    for channel in range(len(channels.mean)):
        print(f"  channel {channel}: {row(channels, channel)}")
    print("config.json of its folder, one number for all channels, or by channel (which DeTok's needs):")
    for spread in (everything, channels):
        print(f"  {json.dumps(config_entries(spread))}")


def row(spread: Spread, k: int) -> str:
    mean, mean_se, std, std_se = (values[k].item() for values in (spread.mean, spread.mean_se, spread.std, spread.std_se))
    return f"mean {mean:.4f} ± {mean_se:.4f}, standard deviation {std:.4f} ± {std_se:.4f}"


def keep(vae: Path, moments: ImageMoments, what: Literal["number", "channels"]) -> None:
    """Write the normaliser, and say what becomes of latents that there are."""
    before = codec_id(load_vae(vae))
    write_normaliser(vae, moments.all() if what == "number" else moments.channels())
    print(f"{vae / 'config.json'} has it; the codec is {codec_id(load_vae(vae))}, latents of {before} have to be encoded anew")


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
