"""A model of a few thousand weights and random latents, for tests of everything around the model."""

from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from marval_ray.embedded import assets_index
from marval_ray.families.base import Wish
from marval_ray.families.mar.config import ModelConfig
from marval_ray.families.mar.model import MAR
from marval_ray.files.latent_files import write_latents
from marval_ray.hub.layout import save_model
from marval_ray.types import Prompts

MODEL = ModelConfig(
    latent_size=4, latent_channels=4, num_classes=3, buffer_size=2,
    encoder_width=16, encoder_depth=1, encoder_heads=2,
    decoder_width=16, decoder_depth=1, decoder_heads=2,
    head_width=16, head_depth=1,
)  # fmt: skip


def write_teacher(folder: Path, config: ModelConfig = MODEL, broken: bool = False) -> Path:
    """A checkpoint with random weights, none of them zero; a broken one predicts noise so large that its loss is infinite."""
    torch.manual_seed(0)
    model = MAR(config)
    state = {name: value + 0.02 * torch.randn_like(value) for name, value in model.state_dict().items()}
    if broken:
        state["diffloss.net.final_layer.linear.bias"].fill_(3e38)
    save_model(folder, "teacher", state, config, torch.float32)
    return folder / "teacher.safetensors"


def write_random_latents(path: Path, config: ModelConfig = MODEL, images: int = 40) -> Path:
    """Latents from N(0, 1)."""
    random = np.random.default_rng(0)
    shape = (images, *config.latent_shape)
    write_latents(
        path, random.standard_normal(shape), np.full(shape, 0.1), random.integers(0, config.num_classes, images), group=10
    )
    return path


def write_inception(path: Path) -> Path:
    """Inception in torch-fidelity's names, with random weights that neither vanish nor grow from layer to layer."""
    torch.manual_seed(0)
    with patch.object(FeatureExtractorInceptionV3, "load_state_dict"):
        torch.save({}, path)
        network = FeatureExtractorInceptionV3("inception", ["2048"], str(path))
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter, nonlinearity="relu")
    torch.save(network.state_dict(), path)
    return path


def write_clip(folder: Path, side: int) -> Path:
    """A CLIP with random weights, as `save_pretrained` writes it, with the tokenizer of the shipped reward's kind."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer  # takes seconds, and few need it

    torch.manual_seed(0)
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    tokenizer = CLIPTokenizer(vocab={token: index for index, token in enumerate(tokens)}, merges=[], model_max_length=16)
    text = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "vocab_size": len(tokenizer), "max_position_embeddings": 16, "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": side,
        "patch_size": 8,
    }  # fmt: skip
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def wish(label: int, seed: int, index: int = 0, loops: int = 64, temperature: float = 1.0) -> Wish:
    """An image of a class."""
    return Wish(Prompts.of_labels(torch.tensor([label])), seed, index, loops, temperature)


def write_latents_from_1(path: Path) -> Path:
    """A hundred of the embedded latents, with classes that are counted from 1."""
    table = pq.read_table(assets_index.LATENTS).slice(0, 100)
    labels = pa.array([label + 1 for label in table["label"].to_pylist()], pa.int64())
    pq.write_table(table.set_column(table.schema.get_field_index("label"), "label", labels), path)
    return path


def largest_gap(a: dict, b: dict) -> float:
    """Of two sets of weights of the same names."""
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)
