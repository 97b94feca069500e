"""All parameters of a module as one flat buffer, which travels as a whole.

The checksum is taken of each parameter while it is still in the processor's cache, which makes it nearly free.
"""

import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

from marval_ray.types import Weights

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ALIGNED = 4
"""Each parameter starts at a multiple of so many numbers, so that its bits can be summed as 64-bit integers."""


class Packer:
    """Packs one module again and again into the same memory: fresh memory costs several times a copy."""

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype
        self.flat: Tensor | None = None

    def __call__(self, parameters: dict[str, Tensor], version: int) -> Weights:
        """Pack the parameters, in the order of their names, as float32 or as the bits of bfloat16; valid until the next call."""
        if self.flat is None:
            self.flat = torch.zeros(total(parameters), dtype=self.dtype)
        checked = 0
        for parameter, part in places(self.flat, parameters):
            part[: parameter.numel()].copy_(parameter.detach().flatten())
            checked += sum_of_bits(part)
        bits = self.flat.view(torch.int16) if self.dtype == torch.bfloat16 else self.flat
        return Weights(version, bits.numpy(), checked)


def pack(parameters: dict[str, Tensor], version: int, dtype: torch.dtype) -> Weights:
    """Pack as a `Packer` does, once."""
    return Packer(dtype)(parameters, version)


@torch.no_grad()
def unpack(weights: Weights, parameters: dict[str, Tensor]) -> None:
    """Copy the buffer into the parameters.

    Raises ValueError when it has another size, or was damaged; then the parameters are of no use any more.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # it is only read
        flat = torch.as_tensor(weights.buffer)
    if len(flat) != total(parameters):
        raise ValueError(f"weights of version {weights.version} hold {len(flat)} numbers, the model {total(parameters)}")
    flat = flat.view(torch.bfloat16) if flat.dtype == torch.int16 else flat
    checked = 0
    for parameter, part in places(flat, parameters):
        checked += sum_of_bits(part)
        parameter.copy_(part[: parameter.numel()].view_as(parameter))
    if checked != weights.checksum:
        raise ValueError(f"weights of version {weights.version} were damaged on their way: the checksum differs")


def total(parameters: dict[str, Tensor]) -> int:
    """Count the numbers that all parameters take in the buffer."""
    return sum(map(size, parameters.values()))


def size(parameter: Tensor) -> int:
    return -(-parameter.numel() // ALIGNED) * ALIGNED


def places(flat: Tensor, parameters: dict[str, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Pair each parameter with its part of the buffer, in the order of their names."""
    ordered = [parameters[name] for name in sorted(parameters)]
    return zip(ordered, flat.split([size(parameter) for parameter in ordered]))


def sum_of_bits(part: Tensor) -> int:
    """Sum the bits as 64-bit integers, with overflow: a changed weight changes it."""
    return int(part.view(torch.int64).sum())
