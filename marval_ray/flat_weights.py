"""All parameters of a module as one flat buffer, which travels as a whole."""

import warnings

import torch
from torch import Tensor

from marval_ray.types import Weights

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def pack(parameters: dict[str, Tensor], version: int, dtype: torch.dtype) -> Weights:
    """The parameters, in the order of their names, as float32 or as the bits of bfloat16."""
    flat = torch.cat([parameters[name].detach().to("cpu", dtype).flatten() for name in sorted(parameters)])
    bits = flat.view(torch.int16) if dtype == torch.bfloat16 else flat
    return Weights(version, bits.numpy(), checksum(bits))


@torch.no_grad()
def unpack(weights: Weights, parameters: dict[str, Tensor]) -> None:
    """Copy the buffer into the parameters. Raises ValueError when it was damaged or has another size."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # it is only read
        flat = torch.as_tensor(weights.buffer)
    if checksum(flat) != weights.checksum:
        raise ValueError(f"weights of version {weights.version} were damaged on their way: the checksum differs")
    sizes = [parameters[name].numel() for name in sorted(parameters)]
    if len(flat) != sum(sizes):
        raise ValueError(f"weights of version {weights.version} hold {len(flat)} numbers, the model {sum(sizes)}")
    flat = flat.view(torch.bfloat16) if flat.dtype == torch.int16 else flat
    for name, part in zip(sorted(parameters), flat.split(sizes)):
        parameters[name].copy_(part.view_as(parameters[name]))


def checksum(bits: Tensor) -> int:
    """Sum of the bits as integers: as fast as memory, and a changed weight changes it."""
    return int(bits.view(torch.int16 if bits.itemsize == 2 else torch.int32).sum(dtype=torch.int64))
