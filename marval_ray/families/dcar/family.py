"""DC-AR as a family: what the rest of the project asks of it, as far as there is something to answer with.

It is not registered by name: nobody can start a stage or a job with it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import torch

from marval_ray.diffusion.samplers import TokenSampler
from marval_ray.draws import Draws
from marval_ray.families.base import Conditioner, Family, RecordedLoop
from marval_ray.families.dcar.codec import DCHTCodec
from marval_ray.families.dcar.config import DCARConfig
from marval_ray.families.dcar.context import TextStates
from marval_ray.families.dcar.loop import recorded_loops, sample_loops
from marval_ray.families.dcar.model import DCAR
from marval_ray.types import Rollout, Tokens


class DCARFamily(Family):
    """Masked generators of discrete codes and residuals, from texts (arXiv 2507.04947)."""

    name = "dcar"

    def config(self, fields: dict[str, Any]) -> DCARConfig:
        return DCARConfig(**fields)

    def build(self, config: DCARConfig) -> DCAR:
        return DCAR(config)

    def codec(self, path: Path, config: DCARConfig) -> DCHTCodec:
        return DCHTCodec.read(path, config)

    def check_data(self, path: Path, config: DCARConfig, codec: str | None = None) -> NoReturn:
        raise ValueError(f"{path}: DC-AR cannot be distilled yet, no format holds its codes, residuals and texts")

    def contexts(self, path: Path, config: DCARConfig, rank: int, world: int) -> NoReturn:
        self.check_data(path, config)

    def conditioner(self, config: DCARConfig, device: torch.device) -> Conditioner:
        raise ValueError("DC-AR cannot be drawn by jobs yet, nothing names its text encoder: marval_ray/families/dcar/text.py reads one")

    def reveal(self, backbone: DCAR, sampler: TokenSampler, condition: TextStates, draws: Draws, loops: int) -> Iterator[Tokens]:
        return sample_loops(backbone, sampler, condition, draws, loops)

    def recorded(self, rollout: Rollout, condition: TextStates, sampler: TokenSampler, loops: int) -> Iterator[RecordedLoop]:
        return recorded_loops(rollout.tokens, condition, rollout.draws, sampler.noise_steps, loops)


FAMILY = DCARFamily()
