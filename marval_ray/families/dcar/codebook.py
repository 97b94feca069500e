"""How a codebook of directions is begun and kept alive while a tokenizer learns.

Shape suffixes: M vectors, K codes, D token channels; all vectors have length 1.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor


def spherical_kmeans(vectors: Float[Tensor, "M D"], codes: int, rounds: int, generator: torch.Generator) -> Float[Tensor, "K D"]:
    """Return `codes` directions that lie among `vectors`: k-means by the largest product; one that nothing is nearest to begins anew."""
    centres = _some_of(vectors, codes, generator)
    for _ in range(rounds):
        nearest = (vectors @ centres.T).argmax(1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, vectors)
        centres = revived(F.normalize(sums, dim=1), uses(nearest, codes) == 0, vectors, generator)
    return centres


def uses(nearest: Int64[Tensor, " M"], codes: int) -> Int64[Tensor, " K"]:
    """Count how often each code is the nearest."""
    return torch.bincount(nearest, minlength=codes)


def revived(centres: Float[Tensor, "K D"], dead: Tensor, vectors: Float[Tensor, "M D"], generator: torch.Generator) -> Float[Tensor, "K D"]:
    """Return the centres with some of `vectors` in the place of the dead ones."""
    return torch.where(dead[:, None], _some_of(vectors, len(centres), generator), centres)


def _some_of(vectors: Float[Tensor, "M D"], count: int, generator: torch.Generator) -> Float[Tensor, "K D"]:
    return vectors[torch.randint(len(vectors), (count,), generator=generator)]
