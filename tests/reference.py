"""Recorded tensors of a reference implementation, and its configuration in this project's terms."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from marval_ray.families.mar.autoencoder import KLConfig
from marval_ray.families.mar.config import ModelConfig

TOKENIZER = {"img_size": "image_size", "token_channels": "latent_channels"}
"""Sizes of DeTok's tokenizer under our names."""
SAMPLING = {"cfg": 2.9, "temperature": 1.0, "chain_temperature": 0.9}


@dataclass(frozen=True)
class Recording:
    """One file: tensors named `group/...`, the reference's configuration and the settings it sampled with."""

    tensors: dict[str, Tensor]
    config: dict
    sampling: dict[str, float]

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def group(self, name: str) -> dict[str, Tensor]:
        """The tensors under `name/`, without that prefix."""
        start = f"{name}/"
        return {key.removeprefix(start): value for key, value in self.tensors.items() if key.startswith(start)}


def own_name(name: str) -> str:
    """Where MAR and a tokenizer are recorded together, `state` is MAR's and `tokenizer` the other's."""
    return re.sub("^state/mar/", "state/", re.sub("^state/tok/", "tokenizer/", name))


def read_recording(path: Path) -> Recording:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {own_name(name): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    config = json.loads(metadata["config"])
    if "tokenizer" in config:
        config["tokenizer_sizes"] = {TOKENIZER.get(name, name): value for name, value in config["tokenizer"].items()}
    return Recording(tensors, config, SAMPLING | json.loads(metadata.get("sampling", "{}")))


def model_config_from_reference(config: dict) -> ModelConfig:
    parts = {
        f"{part}_{name}": config[f"{part}_{theirs}"]
        for part in ("encoder", "decoder")
        for name, theirs in (("width", "embed_dim"), ("depth", "depth"), ("heads", "num_heads"))
    }
    return ModelConfig(
        latent_size=config["img_size"] // config["vae_stride"],
        latent_channels=config["vae_embed_dim"],
        patch_size=config["patch_size"],
        num_classes=config["class_num"],
        buffer_size=config["buffer_size"],
        mlp_ratio=config["mlp_ratio"],
        norm_eps=config["norm_eps"],
        head_width=config["diffloss_w"],
        head_depth=config["diffloss_d"],
        **parts,
    )


def kl_config_from_reference(config: dict) -> KLConfig:
    assert config["embed_dim"] == config["z_channels"] and not config["attn_resolutions_decoder"]
    levels = range(len(config["ch_mult"]))
    return KLConfig(
        ch=config["ch"],
        ch_mult=tuple(config["ch_mult"]),
        num_res_blocks=config["num_res_blocks"],
        z_channels=config["z_channels"],
        attention_levels=tuple(i for i in levels if 256 >> i in config["attn_resolutions_encoder_at_256"]),
    )


def largest_gap(got: Tensor, expected: Tensor) -> float:
    """max |got - expected|; NaN if either has one, so that a comparison with a tolerance fails."""
    assert got.shape == expected.shape, f"{tuple(got.shape)} against {tuple(expected.shape)}"
    return (got.double() - expected.double()).abs().max().item()
