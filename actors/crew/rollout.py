"""Rollout worker: draws images with the student that it is handed. A plain class; `actors.crew.pool` makes actors of it."""

import time

import torch
from torch import Tensor

from marval_ray.config import ModelConfig
from marval_ray.diffusion.samplers import TokenSampler
from marval_ray.families.mar.loop import Draws, sample_tokens
from marval_ray.families.mar.model import MAR
from marval_ray.files.flat import unpack
from marval_ray.types import Drawn, Request, Rollout, Weights


class RolloutWorker:
    """Weights are an argument of every call and kept by version: a restarted worker needs no other state."""

    def __init__(self, config: ModelConfig, sampler: TokenSampler, loops: int, threads: int = 1):
        self.device = own_device(threads)
        # Autocast would round all weights anew in every loop.
        dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.model = MAR(config).eval().requires_grad_(False).to(self.device, dtype)
        self.sampler, self.loops = sampler, loops
        self.held: tuple[int, int] | None = None

    def start(self) -> None:
        """Answer, which takes a worker whose constructor is done."""

    @torch.no_grad()
    def generate(self, weights: Weights, request: Request) -> Drawn:
        """Draw the images of `request`. Raises ValueError when the weights are damaged or of another model."""
        began = time.perf_counter()
        self._use(weights)
        c = self.model.config
        draws = Draws.from_seed(
            request.seed, list(request.indices), c.num_tokens, c.token_channels, self.sampler.noise_steps
        )
        labels = request.labels.to(self.device)
        tokens: Tensor = sample_tokens(self.model, self.sampler, labels, draws.to(self.device), self.loops)
        rollout = Rollout(
            tokens.float().cpu(), request.labels, request.seed, request.indices, weights.version, weights.checksum
        )
        return Drawn(rollout, time.perf_counter() - began)

    def _use(self, weights: Weights) -> None:
        if self.held != (weights.version, weights.checksum):
            unpack(weights, dict(self.model.named_parameters()))
            self.held = (weights.version, weights.checksum)


def own_device(threads: int) -> torch.device:
    """The GPU that Ray gave this process, or the CPU with `threads` threads."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    torch.set_num_threads(threads)
    return torch.device("cpu")
