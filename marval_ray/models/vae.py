"""The frozen autoencoder between images and latents: diffusers' AutoencoderKL, for KL-16 and for the embedded one.

KL-16 is published in the format of latent diffusion (LDM, arXiv 2112.10752): the same layers under other names.

Latents leave `encode` with about zero mean and unit variance per channel: the student reads n ~ N(0, I) as if it
were x_t at t*, which holds only for normalised latents.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor, nn

from marval_ray.weights import StateDict, check_fit, load_strictly, read_state

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


@dataclass(frozen=True)
class Moments:
    """Posterior of the latents, already normalised."""

    mean: Float[Tensor, "N C h w"]
    std: Float[Tensor, "N C h w"]


class VAE(nn.Module):
    """AutoencoderKL with the normalisation (latent - shift) * scale around it; always frozen and in eval mode."""

    shift: Tensor
    scale: Tensor

    def __init__(self, autoencoder: AutoencoderKL):
        super().__init__()
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        shift, scale = _normalisation(autoencoder)
        self.register_buffer("shift", shift)
        self.register_buffer("scale", scale)

    @torch.no_grad()
    def encode(self, images: Float[Tensor, "N c H W"]) -> Moments:
        """Images in [-1, 1] to normalised posterior moments."""
        posterior = self.autoencoder.encode(images).latent_dist
        return Moments((posterior.mean - self.shift) * self.scale, posterior.std * self.scale)

    def decode(self, latents: Float[Tensor, "N C h w"]) -> Float[Tensor, "N c H W"]:
        """Normalised latents to images, about [-1, 1], not clamped; differentiable."""
        return self.autoencoder.decode(latents / self.scale + self.shift).sample


ENCODING = ("shift", "scale", "autoencoder.encoder.", "autoencoder.quant_conv.")
"""Tensors that make latents of images."""


def codec_id(vae: VAE) -> str:
    """Name the encoder and the normalisation by 16 hex digits, the same for the same tensors and for no others.

    The decoder does not count: one fine-tuned on the same latents (`jobs/train_vae.py --decoder-of`) reads them as well.
    """
    digest = hashlib.sha256()
    for name, value in sorted(vae.state_dict().items()):
        if name.startswith(ENCODING):
            digest.update(f"{name} {tuple(value.shape)}".encode())
            digest.update(value.cpu().float().numpy().tobytes())
    return digest.hexdigest()[:16]


def _normalisation(autoencoder: AutoencoderKL) -> tuple[Tensor, Tensor]:
    c = autoencoder.config
    if c.latents_mean is None:
        return torch.zeros(1, 1, 1, 1), torch.full((1, 1, 1, 1), c.scaling_factor)
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
    scaling_factor: float = 0.2325
    """Brings the latents to about unit variance."""

    def build(self) -> AutoencoderKL:
        """The autoencoder with random weights, in diffusers' form."""
        levels = range(len(self.ch_mult))
        down = ("DownEncoderBlock2D", "AttnDownEncoderBlock2D")
        return AutoencoderKL(
            down_block_types=tuple(down[level in self.attention_levels] for level in levels),
            up_block_types=("UpDecoderBlock2D",) * len(levels),
            block_out_channels=tuple(self.ch * multiple for multiple in self.ch_mult),
            layers_per_block=self.num_res_blocks,
            latent_channels=self.z_channels,
            norm_num_groups=32,
            scaling_factor=self.scaling_factor,
        )


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
    """An autoencoder in float32: a diffusers folder, or a file (`kl16.ckpt`, safetensors) in LDM's format.

    `config` gives the sizes for a file; a folder has its own. Raises ValueError when the weights cannot be read
    safely or do not fit, naming what is missing, unexpected or misshapen.
    """
    if path.is_dir():
        return VAE(_load_folder(path))
    autoencoder = config.build()
    load_ldm_state(autoencoder, read_state(path), path)
    return VAE(autoencoder)


def load_ldm_state(autoencoder: AutoencoderKL, state: StateDict, source: Path | str) -> None:
    """Copy a state dict in LDM's format into `autoencoder`. Raises ValueError when it does not fit, in LDM's names."""
    own = autoencoder.state_dict()
    levels = len(autoencoder.config["up_block_types"])
    names = {name: ldm_name(name, levels) for name in own}
    # LDM's training checkpoints carry the perceptual and adversarial loss as well.
    state = {name: value for name, value in state.items() if not name.startswith("loss.")}
    check_fit({names[name]: _ldm_layout(name, value) for name, value in own.items()}, state, source)
    autoencoder.load_state_dict({name: state[names[name]].reshape(value.shape) for name, value in own.items()})


def ldm_name(name: str, levels: int) -> str:
    """LDM's name of a diffusers parameter, for an autoencoder of `levels` resolutions."""
    # diffusers counts the decoder's levels in the order in which they run, LDM from the finest one.
    name = re.sub(r"up_blocks\.(\d+)", lambda match: f"up.{levels - 1 - int(match[1])}", name)
    for pattern, replacement in _LDM_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _ldm_layout(name: str, value: Tensor) -> Tensor:
    """Attention projections are 1x1 convolutions in LDM, linear layers in diffusers."""
    return value[:, :, None, None] if ".attentions." in name and value.ndim == 2 else value


def _load_folder(folder: Path) -> AutoencoderKL:
    """Not `from_pretrained`, which gives parameters that the file lacks random values."""
    path = folder / "config.json"
    if not path.exists():
        raise ValueError(f"{path} is missing: an autoencoder's folder holds config.json beside its safetensors file")
    try:
        autoencoder = AutoencoderKL.from_config(json.loads(path.read_text()))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a config of an autoencoder: {error}") from error
    weights = folder / "diffusion_pytorch_model.safetensors"
    load_strictly(autoencoder, read_state(weights), weights)
    return autoencoder
