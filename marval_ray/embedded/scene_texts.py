"""The text encoder of scenes: a small T5 in the files of T5's own, whose tokenizer knows the words of the prompts."""

import re
import string
from functools import cache
from pathlib import Path

import torch
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from marval_ray.files.fit import save_weights
from marval_ray.files.tensors import StateDict
from marval_ray.scenes.scene import BACKGROUNDS, COUNTS, PHRASINGS, SIDES, Scene
from marval_ray.scenes.sprites import sprites

FOLDER = "text_encoder"
"""Where it lies in a model's folder."""
LAYERS, HEADS, HEAD_WIDTH = 3, 3, 32
RESERVED = 100
"""Pieces that T5's tokenizer expects in every vocabulary."""


@cache
def tokenizer() -> T5Tokenizer:
    """Return a tokenizer that has a piece for each word of the prompts, and spells all others."""
    special, letters = ("<pad>", "</s>", "<unk>", "▁"), string.ascii_letters + string.digits + string.punctuation
    pieces = (*special, *letters, *(f"▁{word}" for word in words()), *(f"<extra_id_{i}>" for i in reversed(range(RESERVED))))
    return T5Tokenizer([(piece, -1.0) for piece in pieces])


def words() -> list[str]:
    """Return the words of all prompts, in alphabetical order."""
    return sorted({word for prompt in prompts() for word in re.findall(r"[\w-]+", prompt)})


def prompts() -> list[str]:
    """Return prompts in which each word of all prompts is."""
    names = list(sprites())
    scenes = [Scene(name, count, "left", "pink") for name in names for count in COUNTS]
    scenes += [Scene(names[0], 1, side, background) for side in SIDES for background in BACKGROUNDS]
    return [scene.prompt(phrasing) for scene in scenes for phrasing in range(len(PHRASINGS))]


def new_encoder(width: int) -> T5EncoderModel:
    """Return a T5 with random weights that reads what `tokenizer` writes."""
    return T5EncoderModel(T5Config(
        vocab_size=len(tokenizer()), d_model=width, d_kv=HEAD_WIDTH, num_heads=HEADS, d_ff=2 * width, num_layers=LAYERS,
        feed_forward_proj="gated-gelu", dropout_rate=0.0,
    ))  # fmt: skip


def save_encoder(folder: Path, config: T5Config, state: StateDict) -> None:
    """Write a folder that `marval_ray.families.dcar.text.TextEncoder` loads, in float32."""
    config.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    once = {name: value for name, value in state.items() if name != "encoder.embed_tokens.weight"}  # it is shared.weight
    save_weights(folder / "model.safetensors", once, torch.float32)
