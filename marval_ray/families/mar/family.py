"""MAR as a family: what the rest of the project asks of it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from marval_ray.diffusion.samplers import TokenSampler
from marval_ray.draws import Draws
from marval_ray.families.base import Conditioner, Family, RecordedLoop, Wish
from marval_ray.families.mar import batching
from marval_ray.families.mar.batching import MARDrawing
from marval_ray.families.mar.codec import KLCodec
from marval_ray.families.mar.config import ModelConfig
from marval_ray.families.mar.data import MaskedLatents
from marval_ray.families.mar.graphs import draw_loops
from marval_ray.families.mar.loop import Randomness, recorded_loops
from marval_ray.families.mar.model import MAR
from marval_ray.files.latents import check_latents
from marval_ray.types import Prompts, Rollout, Tokens


class MARFamily(Family):
    """Masked auto-regressive models of classes (arXiv 2406.11838)."""

    name = "mar"

    def config(self, fields: dict[str, Any]) -> ModelConfig:
        return ModelConfig(**fields)

    def build(self, config: ModelConfig) -> MAR:
        return MAR(config)

    def codec(self, path: Path, config: ModelConfig) -> KLCodec:
        return KLCodec.read(path, config)

    def check_data(self, path: Path, config: ModelConfig, codec: str | None = None) -> None:
        check_latents(path, config.latent_shape, config.num_classes, codec)

    def contexts(self, path: Path, config: ModelConfig, rank: int, world: int, texts: Path | None = None) -> MaskedLatents:
        return MaskedLatents(path, config, rank, world)

    def conditioner(self, config: ModelConfig, device: torch.device, texts: Path | None = None) -> Conditioner:
        """Return what gives the labels: they are all that MAR reads of prompts."""

        def labels(prompts: Prompts) -> Tensor:
            assert prompts.labels is not None  # MAR's prompts are classes
            return prompts.labels.to(device)

        return labels

    def reveal(self, backbone: MAR, sampler: TokenSampler, condition: Int64[Tensor, " B"], draws: Draws, loops: int) -> Iterator[Tokens]:
        c = backbone.config
        random = Randomness.of(draws, c.num_tokens, c.token_channels, sampler.noise_steps, sampler.initial_std).to(backbone.device)
        return map(Tokens, draw_loops(backbone, sampler, condition, random, loops))

    def recorded(self, rollout: Rollout, condition: Int64[Tensor, " B"], sampler: TokenSampler, loops: int) -> Iterator[RecordedLoop]:
        tokens = rollout.tokens.values
        _, length, channels = tokens.shape
        random = Randomness.of(rollout.draws, length, channels, sampler.noise_steps, sampler.initial_std).to(tokens.device)
        return recorded_loops(tokens, condition, random, loops, sampler.reveal)

    def begin(self, wish: Wish, backbone: MAR, texts: Path | None = None) -> MARDrawing:
        return batching.begin(wish, backbone)

    def advance(self, drawings: Sequence[MARDrawing]) -> None:
        batching.advance(drawings)


FAMILY = MARFamily()
