"""A small CLIP with words of its own, and what it learns by: both embedded rewards are made of it."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
LENGTH = 32
"""Tokens of the longest prompt."""
PIECES = 4000
"""More than the prompts of either reward need until each of their words is one token."""


def new_clip(side: int, vision: Mapping[str, int], text: Mapping[str, int], prompts: Iterable[str]) -> tuple[CLIPModel, CLIPProcessor]:
    """Make a CLIP with random weights for images of `side` pixels, and its processor, whose tokenizer knows the words of the prompts."""
    tokenizer = new_tokenizer(prompts)
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": LENGTH}
    model = CLIPModel(CLIPConfig(
        text_config={**text, **sizes, **special}, vision_config={**vision, "image_size": side}, projection_dim=text["hidden_size"]
    ))  # fmt: skip
    images = CLIPImageProcessor(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return model, CLIPProcessor(images, tokenizer)


def show_places(model: CLIPModel) -> None:
    """Make a new model's positions as large as what its patches hold, and its layers of the usual size (Glorot).

    CLIP's own positions are an eighth of the patches there, and where things are stays unseen for thousands of updates.
    """
    nn.init.normal_(model.vision_model.embeddings.position_embedding.weight, std=0.5)
    for layer in model.vision_model.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)


def new_tokenizer(prompts: Iterable[str]) -> CLIPTokenizer:
    """Return a byte-pair tokenizer that has a token for each word of the prompts, and spells all others."""
    learned = Tokenizer(models.BPE(unk_token=END, end_of_word_suffix="</w>"))
    learned.pre_tokenizer = pre_tokenizers.Whitespace()
    letters = [chr(c) for c in range(33, 127)]
    ends = [f"{letter}</w>" for letter in letters]  # named, or their numbers, by which ties are broken, would be others in each process
    trainer = trainers.BpeTrainer(
        vocab_size=PIECES, special_tokens=[START, END, *ends], end_of_word_suffix="</w>", initial_alphabet=letters, show_progress=False
    )
    learned.train_from_iterator((prompt.lower() for prompt in prompts), trainer)
    model = json.loads(learned.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    return CLIPTokenizer(vocab=model["vocab"], merges=merges, model_max_length=LENGTH)  # type: ignore[arg-type]


def contrastive_loss(
    scale: Float[Tensor, ""], seen: Float[Tensor, "B F"], texts: Float[Tensor, "K F"], labels: Int64[Tensor, " B"]
) -> Float[Tensor, ""]:
    """Return the cross entropy of each image over K prompts, of which `labels` are its own (CLIP, arXiv 2103.00020)."""
    return F.cross_entropy(scale * F.normalize(seen, dim=-1) @ F.normalize(texts, dim=-1).T, labels)


class Cycle:
    """AdamW with one cycle of the learning rate, up to `lr` and down again in `steps` updates."""

    def __init__(self, model: nn.Module, lr: float, steps: int):
        self.parameters = list(model.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, lr, weight_decay=0.05)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, lr, steps)

    def update(self, loss: Float[Tensor, ""]) -> None:
        """Follow the gradient of a loss, clipped to unit length."""
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.schedule.step()

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "updates": self.schedule.last_epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after so many updates, on the cycle of this object's `steps`."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.last_epoch = state["updates"]
