"""Inception of 2015, in whose features papers compare images: torch-fidelity's copy of the network, with TensorFlow's resizing."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from marval_ray.files.atomic import atomic_path
from marval_ray.files.tensors import read_state

SPATIAL_CHANNELS = 7
"""Of the layer of sFID: so many of its 17 x 17 x 192 values make about as many features as FID has."""


@dataclass(frozen=True)
class InceptionFeatures:
    """What is looked at of each image.

    pooled: of FID, KID, precision and recall. spatial: of sFID (arXiv 2103.03841). logits: of the Inception score, without bias.
    """

    pooled: Float[Tensor, "N 2048"]
    spatial: Float[Tensor, "N 2023"]
    logits: Float[Tensor, "N 1008"]

    def __len__(self) -> int:
        return len(self.pooled)

    @classmethod
    def cat(cls, parts: Sequence["InceptionFeatures"]) -> "InceptionFeatures":
        """Put those of several batches together, in their order."""
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def save(self, path: Path) -> None:
        with atomic_path(path) as temporary:
            save_file({field.name: getattr(self, field.name) for field in fields(self)}, temporary)

    @classmethod
    def load(cls, path: Path) -> "InceptionFeatures":
        return cls(**load_file(path))


@dataclass(frozen=True)
class Inception:
    """The frozen network."""

    network: FeatureExtractorInceptionV3

    @classmethod
    def load(cls, path: Path) -> "Inception":
        """Read it, onto the CPU. Raises ValueError when the file at `path` is not torch-fidelity's."""
        state = read_state(path)
        # torch-fidelity unpickles whatever its file holds, so it gets one with nothing but the tensors that were read safely.
        with tempfile.NamedTemporaryFile(suffix=".pth") as file:
            torch.save(state, file.name)
            try:
                return cls(FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], file.name))
            except RuntimeError as error:
                raise ValueError(
                    f"{path} does not hold the weights of torch-fidelity's Inception (`python jobs/fetch.py inception`)"
                ) from error

    def to(self, device: torch.device) -> "Inception":
        return Inception(self.network.to(device))

    @torch.no_grad()
    def __call__(self, pixels: UInt8[Tensor, "N C H W"]) -> InceptionFeatures:
        """Return the features, on the CPU, of pixels in 0..255; grey ones are repeated."""
        seen: list[Tensor] = []
        hook = self.network.Mixed_6d.branch1x1.register_forward_hook(lambda module, inputs, output: seen.append(output))
        try:
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                pooled, logits = self.network(pixels.expand(-1, 3, -1, -1).to(self.network.fc.weight.device))
        finally:
            hook.remove()
        spatial = seen[0][:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)
        return InceptionFeatures(pooled.cpu(), spatial.cpu().contiguous(), logits.cpu())
