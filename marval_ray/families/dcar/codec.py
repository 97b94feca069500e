"""DC-AR's codec: DC-HT read from its published folder, between images and codes with scaled residuals."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

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

CONFIG, MODEL_TYPE = "config.json", "dc_ht"
NETWORKS = ("dc-ae-f32-in-1.0", "dc-ae-f32-mix-1.0")
"""Names that config.json has for the network; both are the same."""
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
    def read(cls, folder: Path, config: DCARConfig) -> "DCHTCodec":
        """Read the codec. Raises ValueError as `load_dcht` does, and when its tokens are not the model's."""
        tokenizer = load_dcht(folder)
        c = tokenizer.config
        own, needed = (c.num_codes, c.token_channels, c.stride * config.side), (config.num_codes, config.token_channels, config.image_size)
        if own != needed:
            parts = ("{} codes of {} channels and images of {} pixels".format(*sizes) for sizes in (own, needed))
            raise ValueError(f"{folder} has {next(parts)}, the model {next(parts)}")
        return cls(tokenizer, config)

    @cached_property
    def id(self) -> str:
        return tokenizer_id(self.tokenizer)

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


def tokenizer_id(tokenizer: DCHT) -> str:
    """Name encoder and codebook by their fingerprint."""
    return fingerprint({name: value for name, value in tokenizer.state_dict().items() if name.startswith(ENCODING)})


def is_dcht(path: Path) -> bool:
    """Tell whether `path` is a folder whose config.json is DC-HT's."""
    config = path / CONFIG
    return config.is_file() and read_json(config).get("model_type") == MODEL_TYPE


def load_dcht(folder: Path) -> DCHT:
    """Read a frozen DC-HT in float32 from a folder of transformers: config.json, and weights as safetensors or .bin.

    Raises ValueError when a file is missing or cannot be read safely, or when the config is of another tokenizer than the weights fit.
    """
    if not (folder / CONFIG).is_file():
        raise ValueError(f"{folder / CONFIG} is missing: DC-HT is a folder with {CONFIG} and {WEIGHTS[0]}")
    network = DCHT(_sizes(folder / CONFIG))
    weights = next((folder / name for name in WEIGHTS if (folder / name).is_file()), folder / WEIGHTS[0])
    load_strictly(network, read_state(weights), weights)
    return network.eval().requires_grad_(False)


def _sizes(path: Path) -> DCHTConfig:
    """Return the sizes that a config has; what it leaves out has the defaults of its authors' class, where they are this tokenizer's.

    A network of other sizes than the published one's says so by the names of OWN.
    """
    content = {"codebook_size": 16_384, "codebook_embed_dim": 32, "codebook_l2_norm": True, **read_json(path)}
    expected = {"model_type": (MODEL_TYPE,), "quantizer_type": ("hybrid_vq",), "codebook_l2_norm": (True,), "model_name": NETWORKS}
    for name, values in expected.items():
        if content.get(name) not in values:
            raise ValueError(f"{path}: {name} is {content.get(name)!r}, DC-HT has {' or '.join(map(repr, values))}")
    own = {name: tuple(content[name]) for name in OWN if name in content}
    return DCHTConfig(num_codes=content["codebook_size"], token_channels=content["codebook_embed_dim"], **own)
