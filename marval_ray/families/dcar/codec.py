"""DC-AR's codec: DC-HT read from its published folder, between images and codes with scaled residuals."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from marval_ray.families.dcar.config import DCARConfig
from marval_ray.families.dcar.tokenizer import DCHT, DCHTConfig
from marval_ray.files.checksums import fingerprint
from marval_ray.files.fit import load_strictly
from marval_ray.files.tensors import read_state
from marval_ray.files.text import read_json
from marval_ray.types import Tokens

NETWORKS: dict[str, DCHTConfig] = dict.fromkeys(("dc-ae-f32-in-1.0", "dc-ae-f32-mix-1.0"), DCHTConfig())
"""Sizes by the name that config.json has for them; both are the same."""
OWN = ("widths", "encoder_depths", "decoder_depths")
"""Sizes by which config.json may say that its network has others."""
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""How transformers names the files of weights; safetensors before pickles."""
ENCODING = ("encoder.", "quantize.")
"""Tensors that make tokens of images."""


@dataclass(frozen=True)
class DCHTCodec:
    """A frozen DC-HT and the sizes of the model whose tokens it decodes."""

    tokenizer: DCHT
    config: DCARConfig

    @classmethod
    def read(cls, folder: Path, config: DCARConfig, networks: Mapping[str, DCHTConfig] = NETWORKS) -> "DCHTCodec":
        """Read the codec. Raises ValueError as `load_dcht` does, and when its tokens are not the model's."""
        tokenizer = load_dcht(folder, networks)
        c = tokenizer.config
        own, needed = (c.num_codes, c.token_channels, c.stride * config.side), (config.num_codes, config.token_channels, config.image_size)
        if own != needed:
            parts = ("{} codes of {} channels and images of {} pixels".format(*sizes) for sizes in (own, needed))
            raise ValueError(f"{folder} has {next(parts)}, the model {next(parts)}")
        return cls(tokenizer, config)

    @cached_property
    def id(self) -> str:
        """The fingerprint of encoder and codebook."""
        return fingerprint({name: value for name, value in self.tokenizer.state_dict().items() if name.startswith(ENCODING)})

    def to(self, device: torch.device | str) -> "DCHTCodec":
        return replace(self, tokenizer=self.tokenizer.to(device))

    def encode(self, images: Float[Tensor, "B 3 H W"]) -> Tokens:
        """Turn square images in [-1, 1] into tokens."""
        codes, residual = self.tokenizer.encode(images)
        return Tokens(residual / self.config.residual_scale, codes)

    def decode(self, tokens: Tokens) -> Float[Tensor, "B 3 H W"]:
        """Return images in [-1, 1]; differentiable in the values of the tokens."""
        assert tokens.codes is not None  # DC-AR's tokens have them
        return self.tokenizer.decode(tokens.codes, tokens.values * self.config.residual_scale).float().clamp(-1, 1)


def load_dcht(folder: Path, networks: Mapping[str, DCHTConfig] = NETWORKS) -> DCHT:
    """Read a frozen DC-HT in float32 from a folder of transformers: config.json, and weights as safetensors or .bin.

    Raises ValueError when a file is missing or cannot be read safely, or when the config is of another tokenizer than the weights fit.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder / 'config.json'} is missing: DC-HT is a folder with config.json and {WEIGHTS[0]}")
    network = DCHT(_sizes(folder / "config.json", networks))
    weights = next((folder / name for name in WEIGHTS if (folder / name).is_file()), folder / WEIGHTS[0])
    load_strictly(network, read_state(weights), weights)
    return network.eval().requires_grad_(False)


def _sizes(path: Path, networks: Mapping[str, DCHTConfig]) -> DCHTConfig:
    """Return the sizes that a config has; what it leaves out has the defaults of its authors' class, where they are this tokenizer's."""
    content = {"codebook_size": 16_384, "codebook_embed_dim": 32, "codebook_l2_norm": True, **read_json(path)}
    expected = {"model_type": ("dc_ht",), "quantizer_type": ("hybrid_vq",), "codebook_l2_norm": (True,), "model_name": tuple(networks)}
    for name, values in expected.items():
        if content.get(name) not in values:
            raise ValueError(f"{path}: {name} is {content.get(name)!r}, DC-HT has {' or '.join(map(repr, values))}")
    own: dict[str, Any] = {name: tuple(content[name]) for name in OWN if name in content}
    network = networks[content["model_name"]]
    return replace(network, num_codes=content["codebook_size"], token_channels=content["codebook_embed_dim"], **own)
