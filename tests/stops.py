"""Finds what would make the host wait for a GPU, on tensors without storage (`torch.device("meta")`).

Such a tensor raises where its value is asked for (`item`, `bool`, `nonzero`, an index by a mask). What is left are copies from the host.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from marval_ray.plan.counting import META

aten = torch.ops.aten


def tensors(*trees: Any) -> list[Tensor]:
    return [leaf for leaf in tree_iter(trees) if isinstance(leaf, Tensor)]


class Crossings(TorchDispatchMode):
    """Notes operations that see tensors of both sides, and writing through a mask, for which a GPU looks up its places."""

    def __init__(self, found: list[str]):
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func: Callable, types: Sequence[type], args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        masked = func is aten.index_put_.default and any(index.dtype == torch.bool for index in tensors(args[1]))
        if masked or len({tensor.device for tensor in tensors(args, kwargs, result)}) > 1:
            self.found.append(str(func))
        return result


class HostData(TorchFunctionMode):
    """Notes tensors that are made of Python's numbers: on a GPU a copy each."""

    def __init__(self, found: list[str]):
        super().__init__()
        self.found = found

    def __torch_function__(self, func: Callable, types: Sequence[type], args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (torch.tensor, torch.as_tensor) and result.device == META and not tensors(args[:1]):
            self.found.append(func.__name__)
        return result


@contextmanager
def stops() -> Iterator[list[str]]:
    """Find what is done inside that would stop the host."""
    found: list[str] = []
    with Crossings(found), HostData(found):
        yield found
