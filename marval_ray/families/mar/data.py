"""MAR's data of stage 1: real latents, some of whose tokens are hidden."""

from pathlib import Path

import torch

from marval_ray.families.mar.config import ModelConfig
from marval_ray.families.mar.context import MARContext
from marval_ray.families.mar.masking import drop_labels, mask_tokens
from marval_ray.families.mar.model import patchify
from marval_ray.files.latents import LatentDataset


class MaskedLatents:
    """One rank's share of the latents at `path`. Raises ValueError as `LatentDataset` does."""

    def __init__(self, path: Path, config: ModelConfig, rank: int, world: int):
        self.patch_size, self.masking, self.num_classes = config.patch_size, config.masking, config.num_classes
        self.dataset = LatentDataset(path, config.latent_shape, rank, world)

    def batch(self, seed: int, step: int, size: int, generator: torch.Generator, drop: float = 0.0) -> MARContext:
        """Return batch number `step`; `generator` draws what is hidden, and which images lose their label."""
        latents, labels = self.dataset.batch(seed, step, size)
        if drop:
            labels = drop_labels(labels, self.num_classes, drop, generator)
        return mask_tokens(patchify(latents, self.patch_size), labels, self.masking, generator)
