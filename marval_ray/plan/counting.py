"""Counts the memory that a computation takes, on tensors without storage (`torch.device("meta")`), in a second or two.

What is counted is the storage of what operations return, from its birth until nobody holds it. What kernels use inside (workspaces of
convolutions) and what an allocator adds are not seen. `AsOnGPU` makes up for what such tensors lack: a fused attention, autocast.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only

from marval_ray.draws import Draws
from marval_ray.families.base import Backbone, FamilyConfig
from marval_ray.types import Prompts

META = torch.device("meta")
PRODUCTS = (F.linear, F.conv2d, F.scaled_dot_product_attention)
"""What autocast computes in bfloat16, of all that the models of this project call."""


class LiveBytes(TorchDispatchMode):
    """Bytes of the tensors without storage that were made inside: `live` now, `peak` at most."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._storages: set[int] = set()

    def __torch_dispatch__(self, func: Callable, types: Sequence[type], args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, Tensor) and tensor.device == META:
                self._see(tensor.untyped_storage())
        return result

    def restart(self) -> None:
        """Let the peak begin with what lives now."""
        self.peak = self.live

    def _see(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._storages:
            self._storages.add(key)
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._end, key, size)

    def _end(self, key: int, size: int) -> None:
        self._storages.remove(key)
        self.live -= size


class AsOnGPU(TorchFunctionMode):
    """Attention that never holds the matrix of weights, as fused kernels do it; `bf16`: products as autocast to bfloat16 does them."""

    def __init__(self, bf16: bool):
        super().__init__()
        self.bf16 = bf16

    def __torch_function__(self, func: Callable, types: Sequence[type], args: tuple = (), kwargs: dict | None = None) -> Any:
        if self.bf16 and func in PRODUCTS:
            args = tree_map_only(Tensor, lambda tensor: tensor.bfloat16(), args)
        if func is F.scaled_dot_product_attention:
            return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*args[:3])[0]
        return func(*args, **(kwargs or {}))


@contextmanager
def counting(bf16: bool) -> Iterator[LiveBytes]:
    """Count what is done inside."""
    with LiveBytes() as live, AsOnGPU(bf16):
        yield live


def floats(count: int) -> Tensor:
    """Return float32 numbers that are only counted."""
    return torch.empty(count, device=META)


class StoragelessDraws(Draws):
    """Draws of families that ask for `noise` and `uniform`, which are only counted; those that ask for generators get true ones."""

    @property
    def starts(self) -> "StoragelessDraws":
        return self

    def noise(self, purpose: str, step: int, shape: tuple[int, ...]) -> Tensor:
        return torch.empty(len(self), *shape, device=META)

    uniform = noise


def draws_of(batch: int) -> StoragelessDraws:
    return StoragelessDraws(0, tuple(range(batch)))


def prompts_of(c: FamilyConfig, batch: int) -> Prompts:
    return Prompts(("",) * batch) if c.num_classes is None else Prompts.classes_in_turn(c.num_classes, batch)


def values_of(c: FamilyConfig, batch: int) -> Tensor:
    return torch.empty(batch, c.num_tokens, c.token_channels, device=META)


def build(c: FamilyConfig) -> Backbone:
    with META:
        return c.family.build(c)


def parameters_of(c: FamilyConfig) -> int:
    return sum(parameter.numel() for parameter in build(c).parameters())
