"""Rollout worker: draws images with the student that it is handed. A plain class; `actors.crew.pool` makes actors of it."""

import time
from pathlib import Path

import torch

from marval_ray.device import worker_device
from marval_ray.diffusion.samplers import TokenSampler
from marval_ray.families.base import FamilyConfig
from marval_ray.files.flat import unpack
from marval_ray.types import Request, Rollout, TimedRollout, Tokens, Weights


class RolloutWorker:
    """Weights are an argument of every call and kept by version: a restarted worker needs no other state.

    texts: the text encoder of a model that reads texts.
    """

    def __init__(self, config: FamilyConfig, sampler: TokenSampler, texts: Path | None = None, threads: int = 1):
        self.device = worker_device(threads)
        # Autocast would round all weights anew in every loop.
        dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.family = config.family
        self.model = self.family.build(config).eval().requires_grad_(False).to(self.device, dtype)
        self.conditioner = self.family.conditioner(config, self.device, texts)
        self.sampler = sampler
        self.held: tuple[int, int] | None = None

    def start(self) -> None:
        """Answer, which takes a worker whose constructor is done."""

    @torch.no_grad()
    def generate(self, weights: Weights, request: Request) -> TimedRollout:
        """Draw the images of `request`. Raises ValueError when the weights are damaged or of another model."""
        began = time.perf_counter()
        self._use(weights)
        condition = self.conditioner(request.prompts)
        *_, tokens = self.family.reveal(self.model, self.sampler, condition, request.draws, request.loops)
        drawn = Tokens(tokens.values.float(), tokens.codes, tokens.revealed).to("cpu")
        rollout = Rollout(drawn, request.prompts, request.draws, request.loops, weights.version, weights.checksum)
        return TimedRollout(rollout, time.perf_counter() - began)

    def _use(self, weights: Weights) -> None:
        if self.held != (weights.version, weights.checksum):
            unpack(weights, dict(self.model.named_parameters()))
            self.held = (weights.version, weights.checksum)
