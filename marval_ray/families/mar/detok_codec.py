"""DeTok's tokenizer as an autoencoder with the normalisation of its latents, and its folder on disk."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from marval_ray.families.base import CodecSizes
from marval_ray.families.mar.detok import DeTokConfig, DeTokNetwork
from marval_ray.families.mar.vae import VAE, WEIGHTS, weights_of
from marval_ray.files.atomic import write_json
from marval_ray.files.fit import load_strictly, save_weights
from marval_ray.files.tensors import read_state
from marval_ray.files.text import read_json

DETOK = "DeTok"
"""What the config of a folder calls its class."""


class DeTok(VAE):
    """DeTok's tokenizer. mean, std: of its latents, by channel."""

    autoencoder: DeTokNetwork

    def __init__(self, network: DeTokNetwork, mean: Sequence[float], std: Sequence[float]):
        c = network.config
        sizes = CodecSizes(c.image_size, 3, c.patch_size, c.latent_channels)
        shift, scale = torch.tensor(mean).reshape(1, -1, 1, 1), 1 / torch.tensor(std).reshape(1, -1, 1, 1)
        super().__init__(network, sizes, shift, scale)

    def _posterior(self, images: Float[Tensor, "N c H W"]) -> tuple[Float[Tensor, "N C h w"], Float[Tensor, "N C h w"]]:
        return self.autoencoder.posterior(images)

    def _images(self, latents: Float[Tensor, "N C h w"]) -> Float[Tensor, "N c H W"]:
        return self.autoencoder.images(latents)


def save_detok(folder: Path, codec: DeTok) -> None:
    """Write DeTok's tokenizer with its normalisation, as `load_vae` reads it."""
    mean, std = (value.flatten().tolist() for value in (codec.shift, 1 / codec.scale))
    sizes = asdict(codec.autoencoder.config)
    write_json(folder / "config.json", {"_class_name": DETOK, "sizes": sizes, "latents_mean": mean, "latents_std": std})
    save_weights(folder / f"{WEIGHTS}.safetensors", codec.autoencoder.state_dict(), torch.float32)


def load_detok(folder: Path) -> DeTok:
    """Read what `save_detok` wrote. Raises ValueError when it is not that, or its weights do not fit."""
    path = folder / "config.json"
    content = read_json(path)
    try:
        network = DeTokNetwork(DeTokConfig(**content["sizes"]))
        codec = DeTok(network, content["latents_mean"], content["latents_std"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a config of DeTok's tokenizer: {error!r}") from error
    weights, _ = weights_of(folder)
    load_strictly(network, read_state(weights), weights)
    return codec


def read_detok(path: Path, config: DeTokConfig, mean: Sequence[float], std: Sequence[float]) -> DeTok:
    """Read a published checkpoint of DeTok's tokenizer. Raises ValueError when it cannot be read safely or does not fit."""
    network = DeTokNetwork(config)
    state = {name: value for name, value in read_state(path).items() if name != "decoder.mask_token"}  # of its training alone
    load_strictly(network, state, path)
    return DeTok(network, mean, std)
