"""The frozen autoencoder between images and latents: diffusers' AutoencoderKL, for KL-16 and for the embedded one, or DeTok's.

KL-16 is published in the format of latent diffusion (LDM, arXiv 2112.10752): the same layers under other names.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from marval_ray.families.base import CodecSizes
from marval_ray.families.mar.detok_codec import DETOK, load_detok
from marval_ray.families.mar.vae import VAE, weights_of
from marval_ray.files.fit import check_finite, check_fit, check_report
from marval_ray.files.tensors import StateDict, check_no_adapter, read_state
from marval_ray.files.text import read_json

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

KL16_SIZE = 256
"""Pixels that published KL-16 autoencoders were trained on; their files do not say."""
TINY_SIZE = 32
TINY = {
    "in_channels": 1,
    "out_channels": 1,
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "block_out_channels": (16, 32, 32),
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 8,
    "sample_size": TINY_SIZE,
}


class KLVAE(VAE):
    """diffusers' AutoencoderKL. image_size: of what it was trained on, where its own config does not say."""

    autoencoder: "AutoencoderKL"

    def __init__(self, autoencoder: "AutoencoderKL", image_size: int | None = None):
        c = autoencoder.config
        stride = 2 ** (len(c.block_out_channels) - 1)
        sizes = CodecSizes(image_size or c.sample_size, c.in_channels, stride, c.latent_channels)
        super().__init__(autoencoder, sizes, *_normalisation(autoencoder))

    def _posterior(self, images: Float[Tensor, "N c H W"]) -> tuple[Float[Tensor, "N C h w"], Float[Tensor, "N C h w"]]:
        posterior = self.autoencoder.encode(images).latent_dist
        return posterior.mean, posterior.std

    def _images(self, latents: Float[Tensor, "N C h w"]) -> Float[Tensor, "N c H W"]:
        return self.autoencoder.decode(latents).sample


def _normalisation(autoencoder: "AutoencoderKL") -> tuple[Tensor, Tensor]:
    c = autoencoder.config
    if c.latents_mean is None:
        return torch.full((1, 1, 1, 1), c.shift_factor or 0.0), torch.full((1, 1, 1, 1), c.scaling_factor)
    mean, std = (torch.tensor(v, dtype=torch.float32).reshape(1, -1, 1, 1) for v in (c.latents_mean, c.latents_std))
    return mean, 1 / std


@dataclass(frozen=True)
class KLConfig:
    """Sizes of an autoencoder in LDM's format, under LDM's names; the defaults are KL-16's (MAR, arXiv 2406.11838)."""

    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    """Channels of each level, finest first, as multiples of `ch`."""
    num_res_blocks: int = 2
    z_channels: int = 16
    attention_levels: tuple[int, ...] = (4,)
    """Encoder levels with attention after each residual block; both middle blocks have it anyway."""
    decoder_attention_levels: tuple[int, ...] = ()
    """The same of the decoder: LDM's own KL-f16 has some, MAR's KL-16 none."""
    quant_conv: bool = True
    """1x1 convolutions between encoder, latents and decoder."""
    scaling_factor: float = 0.2325
    """Brings the latents to about unit variance."""

    def of(self, state: StateDict) -> "KLConfig":
        """Return these sizes with attention and convolutions where a file has them, by its names."""
        return replace(
            self,
            attention_levels=_attention_levels(state, "encoder.down"),
            decoder_attention_levels=_attention_levels(state, "decoder.up"),
            quant_conv="quant_conv.weight" in state,
        )

    def build(self) -> "AutoencoderKL":
        """Return the autoencoder with random weights, in diffusers' form."""
        levels = range(len(self.ch_mult))
        down, up = ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"), ("UpDecoderBlock2D", "AttnUpDecoderBlock2D")
        return autoencoder_class()(
            down_block_types=tuple(down[level in self.attention_levels] for level in levels),
            up_block_types=tuple(up[level in self.decoder_attention_levels] for level in reversed(levels)),
            block_out_channels=tuple(self.ch * multiple for multiple in self.ch_mult),
            layers_per_block=self.num_res_blocks,
            latent_channels=self.z_channels,
            norm_num_groups=32,
            scaling_factor=self.scaling_factor,
            use_quant_conv=self.quant_conv,
            use_post_quant_conv=self.quant_conv,
        )


def _attention_levels(state: StateDict, part: str) -> tuple[int, ...]:
    found = (re.match(rf"{re.escape(part)}\.(\d+)\.attn\.", name) for name in state)
    return tuple(sorted({int(match[1]) for match in found if match}))


KL16 = KLConfig()

# Parts of a parameter's name, diffusers' and LDM's; applied in this order.
_LDM_NAMES = (
    (r"down_blocks\.(\d+)", r"down.\1"),
    (r"(down|up)(\.\d+)\.resnets\.(\d+)", r"\1\2.block.\3"),
    (r"(down|up)(\.\d+)\.attentions\.(\d+)", r"\1\2.attn.\3"),
    (r"(down|up)samplers\.0", r"\1sample"),
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0", "mid.attn_1"),
    (r"conv_shortcut", "nin_shortcut"),
    (r"conv_norm_out", "norm_out"),
    (r"group_norm", "norm"),
    (r"to_([qkv])", r"\1"),
    (r"to_out\.0", "proj_out"),
)


def load_vae(path: Path, config: KLConfig = KL16) -> VAE:
    """Read an autoencoder in float32: a diffusers folder, or a file (`kl16.ckpt`, safetensors) in LDM's format.

    `config` gives the sizes for a file, whose names tell where it has attention; a folder has its own. Raises ValueError
    when the weights cannot be read safely or do not fit, naming what is missing, unexpected or misshapen.
    """
    if path.is_dir():
        return _load_folder(path)
    state = read_state(path)
    autoencoder = config.of(state).build()
    load_ldm_state(autoencoder, state, path)
    return KLVAE(autoencoder, KL16_SIZE)


def load_ldm_state(autoencoder: "AutoencoderKL", state: StateDict, source: Path | str) -> None:
    """Copy a state dict in LDM's format into `autoencoder`. Raises ValueError when it does not fit, in LDM's names."""
    own = autoencoder.state_dict()
    levels = len(autoencoder.config["up_block_types"])
    names = {name: ldm_name(name, levels) for name in own}
    # LDM's training checkpoints carry the perceptual and adversarial loss as well.
    state = {name: value for name, value in state.items() if not name.startswith("loss.")}
    check_fit({names[name]: _ldm_layout(name, value) for name, value in own.items()}, state, source)
    autoencoder.load_state_dict({name: state[names[name]].reshape(value.shape) for name, value in own.items()})


def ldm_name(name: str, levels: int) -> str:
    """Return LDM's name of a diffusers parameter, for an autoencoder of `levels` resolutions."""
    # diffusers counts the decoder's levels in the order in which they run, LDM from the finest one.
    name = re.sub(r"up_blocks\.(\d+)", lambda match: f"up.{levels - 1 - int(match[1])}", name)
    for pattern, replacement in _LDM_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _ldm_layout(name: str, value: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    """Give a tensor the shape that it has in LDM: attention projections are 1x1 convolutions there, linear layers in diffusers."""
    return value[:, :, None, None] if ".attentions." in name and value.ndim == 2 else value


def autoencoder_class() -> "type[AutoencoderKL]":
    """Import diffusers' class when one is made: that takes seconds, and most processes only name the type."""
    from diffusers import AutoencoderKL

    return AutoencoderKL


def _load_folder(folder: Path) -> VAE:
    check_no_adapter(folder)
    path = folder / "config.json"
    if not path.exists():
        raise ValueError(f"{path} is missing: an autoencoder's folder holds config.json beside its weights{_inside(folder)}")
    kind = read_json(path).get("_class_name", "AutoencoderKL")
    if kind == DETOK:
        return load_detok(folder)
    if kind != "AutoencoderKL":
        raise ValueError(f"{path} is the config of a {kind}, not of an AutoencoderKL or a {DETOK}")
    return KLVAE(_load_diffusers(folder))


def _load_diffusers(folder: Path) -> "AutoencoderKL":
    """Read a folder by diffusers' own loader, which knows shards, variants and older names of layers."""
    path = folder / "config.json"
    weights, variant = weights_of(folder)
    read_state(weights)  # tells better than diffusers what is wrong with a file
    try:
        autoencoder, report = autoencoder_class().from_pretrained(
            folder, variant=variant, use_safetensors=".safetensors" in weights.name, local_files_only=True,
            torch_dtype=torch.float32, low_cpu_mem_usage=False, ignore_mismatched_sizes=True, output_loading_info=True,
        )  # fmt: skip
    except (TypeError, ValueError, RuntimeError, OSError) as error:
        raise ValueError(f"{path} is not a config of an autoencoder with these weights: {str(error).splitlines()[0]}") from error
    check_report(report, weights)
    check_finite(autoencoder.state_dict(), weights)
    return autoencoder


def _inside(folder: Path) -> str:
    """Return a hint for the folder of a whole pipeline."""
    return f"; {folder / 'vae'} has both" if (folder / "vae/config.json").exists() else ""
