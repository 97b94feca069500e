"""ImageReward (Xu et al., arXiv 2304.05977): BLIP's text encoder reads prompt and image, a small MLP scores it."""

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import BertTokenizer, BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

from marval_ray.files.fit import check_fit, load_strictly
from marval_ray.files.tensors import StateDict, read_state
from marval_ray.rewards.preprocess import ImageTransform

MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""Of the raw scores over the authors' data."""
MAX_TOKENS = 35
WIDTHS = (1024, 128, 64, 16, 1)

VISION = BlipVisionConfig(
    hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=224,
    patch_size=16, hidden_act="gelu", layer_norm_eps=1e-6,
)  # fmt: skip
TEXT = BlipTextConfig(
    vocab_size=30524, hidden_size=768, encoder_hidden_size=1024, intermediate_size=3072, num_hidden_layers=12,
    num_attention_heads=12, max_position_embeddings=512, hidden_act="gelu", layer_norm_eps=1e-12,
)  # fmt: skip

_USED = ("blip.visual_encoder.", "blip.text_encoder.", "mlp.layers.")
# Names in the published file -> names in transformers' BLIP.
_RENAMED = (
    (r"^blip\.visual_encoder\.cls_token$", "vision.embeddings.class_embedding"),
    (r"^blip\.visual_encoder\.pos_embed$", "vision.embeddings.position_embedding"),
    (r"^blip\.visual_encoder\.patch_embed\.proj\.", "vision.embeddings.patch_embedding."),
    (r"^blip\.visual_encoder\.norm\.", "vision.post_layernorm."),
    (r"^blip\.visual_encoder\.blocks\.(\d+)\.attn\.qkv\.", r"vision.encoder.layers.\1.self_attn.qkv."),
    (r"^blip\.visual_encoder\.blocks\.(\d+)\.attn\.proj\.", r"vision.encoder.layers.\1.self_attn.projection."),
    (r"^blip\.visual_encoder\.blocks\.(\d+)\.norm(\d)\.", r"vision.encoder.layers.\1.layer_norm\2."),
    (r"^blip\.visual_encoder\.blocks\.(\d+)\.mlp\.", r"vision.encoder.layers.\1.mlp."),
    (r"^blip\.text_encoder\.", "text."),
    (r"^mlp\.layers\.", "mlp."),
)


class ImageReward(nn.Module):
    """(MLP(BLIP(image, prompt)) - 0.167) / 1.033; about N(0, 1) over the authors' data."""

    differentiable = True

    def __init__(self, vision: BlipVisionConfig, text: BlipTextConfig, tokenizer: BertTokenizer):
        super().__init__()
        self.vision, self.text = BlipVisionModel(vision), BlipTextModel(text, add_pooling_layer=False)
        widths = (text.hidden_size, *WIDTHS)
        layers: list[nn.Module] = []
        for index, (a, b) in enumerate(zip(widths, widths[1:])):
            # Dropout keeps the published numbering: a Linear at 0, 2, 4, 6 and 7.
            layers += [nn.Linear(a, b)] + ([nn.Dropout((0.2, 0.2, 0.1)[index])] if index < 3 else [])
        self.mlp = nn.Sequential(*layers)
        self.tokenizer = tokenizer
        side = int(vision.image_size)  # type: ignore[arg-type]
        self.transform = ImageTransform(side, side)

    @classmethod
    def load(cls, folder: Path, vision: BlipVisionConfig = VISION, text: BlipTextConfig = TEXT) -> "ImageReward":
        """Read a frozen reward from a folder with ImageReward.pt and bert-base-uncased's vocab.txt.

        Raises ValueError when a file is missing, cannot be read safely or does not fit.
        """
        model = cls(vision, text, BertTokenizer(str(_vocabulary(folder))))
        load_strictly(model, renamed(read_state(folder / "ImageReward.pt")), folder / "ImageReward.pt")
        return model.eval().requires_grad_(False)

    @classmethod
    def check(cls, folder: Path, vision: BlipVisionConfig = VISION, text: BlipTextConfig = TEXT) -> None:
        """Raise ValueError unless `load` can read the folder, without taking memory for the weights."""
        with torch.device("meta"):
            model = cls(vision, text, BertTokenizer(str(_vocabulary(folder))))
        path = folder / "ImageReward.pt"
        check_fit(model.state_dict(), renamed(read_state(path)), path)

    def forward(self, images: Float[Tensor, "B C H W"], prompts: Sequence[str]) -> Float[Tensor, " B"]:
        seen = self.vision(self.transform(images)).last_hidden_state
        tokens = self.tokenizer(list(prompts), padding="max_length", truncation=True, max_length=MAX_TOKENS, return_tensors="pt").to(
            images.device
        )
        read = self.text(
            tokens.input_ids, tokens.attention_mask, encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=seen.device),
        )  # fmt: skip
        return (self.mlp(read.last_hidden_state[:, 0]).squeeze(-1) - MEAN) / STD


def _vocabulary(folder: Path) -> Path:
    vocabulary = folder / "vocab.txt"
    if not vocabulary.is_file():
        raise ValueError(f"{vocabulary} is missing: put bert-base-uncased's vocab.txt beside ImageReward.pt")
    return vocabulary


def renamed(published: StateDict) -> StateDict:
    """Return the tensors of ImageReward.pt under this module's names; those of BLIP that it does not use are left out."""
    used = {name: value for name, value in published.items() if name.startswith(_USED) and not name.endswith("position_ids")}
    return {_rename(name): value for name, value in used.items()}


def _rename(name: str) -> str:
    for pattern, replacement in _RENAMED:
        name, count = re.subn(pattern, replacement, name)
        if count:
            break
    return name
