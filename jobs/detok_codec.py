"""Put DeTok's tokenizer and the statistics of its latents into one folder, which every --vae takes.

    python jobs/detok_codec.py --weights detok-BB-gamm3.0-m0.7-decoder_tuned.pth --stats stats.pkl --out codecs/detok
"""

from dataclasses import dataclass, field
from pathlib import Path

from marval_ray import cli
from marval_ray.families.mar.detok import DeTokConfig
from marval_ray.families.mar.detok_codec import read_detok, save_detok
from marval_ray.families.mar.detok_statistics import KEY, read_statistics
from marval_ray.families.mar.vae import codec_id


@dataclass(frozen=True)
class Config:
    weights: Path
    """The tokenizer as published (.pth), with its decoder tuned or not: encode with the one that will decode."""
    stats: Path
    """The published stats.pkl."""
    out: Path
    """The folder to write: config.json and safetensors."""
    key: str = KEY
    """Which of the statistics."""
    sizes: DeTokConfig = field(default_factory=DeTokConfig)


def main(config: Config) -> None:
    mean, std = read_statistics(config.stats, config.sizes.latent_channels, config.key)
    codec = read_detok(config.weights, config.sizes, mean, std)
    save_detok(config.out, codec)
    c = config.sizes
    print(f"{config.out}: codec {codec_id(codec)}, {c.latent_channels} channels on {c.side} x {c.side} tokens")


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
