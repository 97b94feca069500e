"""DeTok's published statistics of latents, a bare pickle, read without running anything that it may hold."""

import io
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

KEY = "detok-BB-gamm3.0-m0.7"
"""Of the tokenizer that the published generators were trained with."""


class _TensorsOnly(pickle.Unpickler):
    """Knows how tensors are put together, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
            ("collections", "OrderedDict"): OrderedDict,
            ("torch.storage", "_load_from_bytes"): _storage,
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no statistics need")
        return allowed[module, name]


def _storage(content: bytes) -> Any:
    """Read a storage, on the CPU wherever it was saved."""
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def read_statistics(path: Path, channels: int, key: str = KEY) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of the latents by channel, of `stats.pkl`.

    It holds those of [mean | log-variance]: the first half counts. Raises ValueError when the file cannot be read safely or
    holds no such statistics.
    """
    try:
        with path.open("rb") as file:
            content = _TensorsOnly(file).load()
        mean, std = content[key]["channel"]
    except FileNotFoundError as error:
        raise ValueError(f"there are no statistics at {path}") from error
    except KeyError as error:
        raise ValueError(f"{path} has no {error}: it holds {', '.join(map(str, content))}") from error
    except (pickle.UnpicklingError, EOFError, RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read safely as statistics of latents: {str(error).splitlines()[0]}") from error
    for value in (mean, std):
        if not isinstance(value, Tensor) or value.numel() != 2 * channels or not value.isfinite().all():
            raise ValueError(f"{path}: statistics of {key} are not {2 * channels} finite numbers")
    return mean.flatten()[:channels].tolist(), std.flatten()[:channels].tolist()
