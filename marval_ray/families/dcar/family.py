"""DC-AR as a family: what the rest of the project asks of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from marval_ray.device import own_device
from marval_ray.diffusion.samplers import TokenSampler
from marval_ray.draws import Draws
from marval_ray.families.base import Choices, Family, RecordedLoop
from marval_ray.families.dcar.choices import code_choices
from marval_ray.families.dcar.codec import DCHTCodec
from marval_ray.families.dcar.config import DCARConfig
from marval_ray.families.dcar.context import TextStates
from marval_ray.families.dcar.data import MaskedCodes, check_data
from marval_ray.families.dcar.loop import recorded_loops, sample_loops
from marval_ray.families.dcar.model import DCAR
from marval_ray.families.dcar.presets import LOOPS
from marval_ray.families.dcar.text import TextEncoder, text_encoder
from marval_ray.types import Rollout, Tokens


class DCARFamily(Family):
    """Masked generators of discrete codes and residuals, from texts (arXiv 2507.04947)."""

    name = "dcar"
    loops = LOOPS
    hides_all = True

    def config(self, fields: dict[str, Any]) -> DCARConfig:
        return DCARConfig(**fields)

    def explores_codes(self, config: DCARConfig) -> bool:
        return config.code_temperature > 0

    def build(self, config: DCARConfig) -> DCAR:
        return DCAR(config)

    def codec(self, path: Path, config: DCARConfig) -> DCHTCodec:
        return DCHTCodec.read(path, config)

    def check_data(self, path: Path, config: DCARConfig, codec: str | None = None) -> None:
        check_data(path, config, codec)

    def contexts(self, path: Path, config: DCARConfig, rank: int, world: int, texts: Path | None = None) -> MaskedCodes:
        return MaskedCodes(path, config, rank, world, self.conditioner(config, own_device(), texts))

    def conditioner(self, config: DCARConfig, device: torch.device, texts: Path | None = None) -> TextEncoder:
        """Return T5's encoder. Raises ValueError when nothing names it, or as `text_encoder` does."""
        if texts is None:
            raise ValueError("the model reads texts, and nothing names its text encoder: give it with --texts FOLDER")
        return text_encoder(texts, config, device)

    def unread(self, text: str, backbone: DCAR, texts: Path | None = None) -> str:
        return self.conditioner(backbone.config, backbone.device, texts).unread(text)

    def reveal(self, backbone: DCAR, sampler: TokenSampler, condition: TextStates, draws: Draws, loops: int) -> Iterator[Tokens]:
        return sample_loops(backbone, sampler, condition, draws, loops)

    def recorded(self, rollout: Rollout, condition: TextStates, sampler: TokenSampler, loops: int) -> Iterator[RecordedLoop]:
        return recorded_loops(rollout.tokens, condition, rollout.draws, sampler, loops)

    def choices(self, rollout: Rollout, config: DCARConfig, condition: TextStates) -> Iterator[Choices]:
        return code_choices(rollout.tokens, config.mask_code, condition, rollout.loops)


FAMILY = DCARFamily()
