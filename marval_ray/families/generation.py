"""Whole images for prompts: the auto-regressive loops of a model, then its codec."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from marval_ray.diffusion.samplers import TokenSampler
from marval_ray.draws import Draws
from marval_ray.families.base import Backbone, Codec
from marval_ray.types import Prompts, Tokens

OnLoop = Callable[[int, Tokens], None]
"""Gets the number of a loop, 0.., and the tokens of a batch after it."""


@runtime_checkable
class Painter(Protocol):
    """Who draws images. loops: N_AR, the number of auto-regressive loops; batch: images at once."""

    @property
    def loops(self) -> int: ...
    @property
    def batch(self) -> int: ...
    def images(self, prompts: Prompts, seed: int, progress: str | None = None) -> Float[Tensor, "N C H W"]:
        """Return images in [-1, 1] on the CPU. progress: title of a progress bar that counts them."""

    def with_loops(self, loops: int) -> "Painter":
        """Return the same painter with another number of loops."""


@dataclass(frozen=True)
class Generation:
    """A model with all that it needs to draw images; both modules are on the same device.

    loops: N_AR, the number of auto-regressive loops (1..number of tokens). batch: images at once. decoded: of these, how many the
    codec decodes at once; None: all. texts: where the text encoder lies of a model that reads texts.
    """

    model: Backbone
    codec: Codec
    sampler: TokenSampler
    loops: int = 64
    batch: int = 64
    texts: Path | None = None
    decoded: int | None = None

    def images(
        self, prompts: Prompts, seed: int, progress: str | None = None, first: int = 0, on_loop: OnLoop | None = None
    ) -> Float[Tensor, "N C H W"]:
        """Draw images in [-1, 1], on the CPU. Image i depends on (seed, first + i, prompt i) alone, so batches do not matter.

        progress: title of a progress bar that counts images. on_loop: called after each loop of each batch.
        """
        parts = []
        with torch.inference_mode(), tqdm(total=len(prompts), desc=progress, unit="image", disable=progress is None) as bar:
            for part in self._batches(prompts, seed, first, on_loop):
                parts.append(part.cpu())
                bar.update(len(part))
        return torch.cat(parts)

    def with_loops(self, loops: int) -> "Generation":
        return replace(self, loops=loops)

    def on(self, device: torch.device) -> "Generation":
        """Return the same on a device, with the model in bfloat16 where that is a GPU."""
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        return replace(self, model=self.model.to(device, dtype), codec=self.codec.to(device))

    def _batches(self, prompts: Prompts, seed: int, first: int, on_loop: OnLoop | None) -> Iterator[Tensor]:
        c = self.model.config
        conditioner = c.family.conditioner(c, self.model.device, self.texts)
        for start in range(0, len(prompts), self.batch):
            part = prompts[start : start + self.batch]
            draws = Draws(seed, tuple(range(first + start, first + start + len(part))))
            for loop, tokens in enumerate(c.family.reveal(self.model, self.sampler, conditioner(part), draws, self.loops)):
                if on_loop is not None:
                    on_loop(loop, tokens)
            size = self.decoded or len(part)
            yield torch.cat([self.codec.decode(tokens[at : at + size]) for at in range(0, len(part), size)])


def student_generation(model: Backbone, codec: Codec, loops: int = 64, batch: int = 64, texts: Path | None = None) -> Generation:
    """Return what draws with one diffusion step a token, at the model's own t*."""
    return Generation(model, codec, model.one_step, loops, batch, texts)
