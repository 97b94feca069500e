"""DC-AR's text encoder: the encoder of T5 (arXiv 1910.10683), frozen, read from files."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase, T5Config, T5EncoderModel

from marval_ray.families.dcar.config import DCARConfig
from marval_ray.families.dcar.context import TextStates
from marval_ray.files.fit import check_fit
from marval_ray.files.tensors import read_state
from marval_ray.files.text import read_json
from marval_ray.types import Prompts

PAD = 0
"""T5's code of padding."""
KEPT = 256
"""Texts whose states are kept: 0.9 MB each of the published sizes."""


class TextEncoder(nn.Module):
    """A conditioner: prompts as they are, each padded or cut to `length` tokens, to the states of T5's last layer.

    T5 is not told which tokens are padding: DC-AR was trained so, and its states change with the number of them.
    """

    def __init__(self, model: T5EncoderModel, tokenizer: PreTrainedTokenizerBase, length: int):
        super().__init__()
        self.model, self.tokenizer = model.eval().requires_grad_(False), tokenizer.backend_tokenizer
        # Here and in no call: a tokenizer that is set while another thread reads with it raises.
        self.tokenizer.enable_truncation(length)
        self.tokenizer.enable_padding(length=length, pad_id=PAD)
        self._kept = lru_cache(KEPT)(lambda text: self.encode(self.tokens([text])))

    @classmethod
    def load(cls, folder: Path, config: DCARConfig) -> "TextEncoder":
        """Read a folder with T5's config.json, model.safetensors and tokenizer.json, whole or its encoder alone.

        Raises ValueError when a file is missing or does not fit the others or `config`.
        """
        absent = [name for name in ("config.json", "model.safetensors", "tokenizer.json") if not (folder / name).is_file()]
        if absent:
            raise ValueError(f"{folder / absent[0]} is missing: `python jobs/fetch.py t5-base` has what a text encoder needs")
        kind, width = (read_json(folder / "config.json").get(name) for name in ("model_type", "d_model"))
        if (kind, width) != ("t5", config.text_width):
            raise ValueError(f"{folder} is a {kind} of width {width}, the model reads texts of a t5 of width {config.text_width}")
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise ValueError(f"{folder / 'tokenizer.json'} is not a tokenizer: {str(error).splitlines()[0]}") from error
        model = _read_encoder(folder)
        if tokenizer.pad_token_id != PAD or len(tokenizer) > model.config.vocab_size:
            raise ValueError(f"{folder}: its tokenizer is not that of its model, which knows {model.config.vocab_size} tokens")
        return cls(model, tokenizer, config.text_length)

    def forward(self, prompts: Prompts) -> TextStates:
        """Return the states of each text, encoded by itself: its batch, which may be another in a resumed run, changes no bit of them."""
        return TextStates.cat([self._kept(text) for text in prompts.texts])

    def tokens(self, texts: Sequence[str]) -> Int64[Tensor, "B T"]:
        """Return the codes of texts, with the end's after the last word and those of padding after it."""
        return torch.tensor([one.ids for one in self.tokenizer.encode_batch(list(texts))], device=self.model.device)

    def unread(self, text: str) -> str:
        """Return the words at the end of a text that are cut off, "" of one that is read whole. Any thread may ask."""
        beyond = self.tokenizer.encode(text).overflowing
        return text[beyond[0].offsets[0][0] :].strip() if beyond else ""

    @torch.no_grad()
    def encode(self, tokens: Int64[Tensor, "B T"]) -> TextStates:
        return TextStates(self.model(input_ids=tokens).last_hidden_state, tokens != PAD)


@lru_cache(maxsize=1)
def text_encoder(folder: Path, config: DCARConfig, device: torch.device) -> TextEncoder:
    """Return the text encoder in `folder`, which a process reads once. Raises ValueError as `TextEncoder.load` does."""
    return TextEncoder.load(folder, config).to(device)


def _read_encoder(folder: Path) -> T5EncoderModel:
    """Read the encoder, on whose names a file of the whole T5 agrees. Raises ValueError as `check_fit` does."""
    path = folder / "model.safetensors"
    state = {name: value.float() for name, value in read_state(path).items() if name.startswith(("shared.", "encoder."))}
    with torch.device("meta"):
        model = T5EncoderModel(T5Config.from_pretrained(folder, local_files_only=True))
    if "shared.weight" in state:
        state["encoder.embed_tokens.weight"] = state["shared.weight"]  # one tensor under two names
    check_fit(model.state_dict(), state, path)
    model.load_state_dict(state, assign=True)
    return model
