"""The Inception score of images whose logits come in parts, none of which is kept (Salimans et al., arXiv 1606.03498)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from marval_ray.files.stored_images import shuffled

CHUNKS = 10


def chunks_of(images: int) -> Int64[Tensor, " N"]:
    """Return the chunk, 0..9, of each of so many images; torch-fidelity shuffles them, since classes often come in order."""
    order = torch.from_numpy(shuffled(images))
    bounds = torch.arange(1, CHUNKS) * images // CHUNKS
    chunks = torch.empty(images, dtype=torch.long)
    chunks[order] = torch.bucketize(torch.arange(images), bounds, right=True)
    return chunks


@dataclass(frozen=True)
class ScoreSums:
    """Of each chunk: its number of images, the sum of their class probabilities, and of sum p log p."""

    counts: Float64[Tensor, " J"]
    probabilities: Float64[Tensor, "J K"]
    entropies: Float64[Tensor, " J"]

    @classmethod
    def of(cls, logits: Float[Tensor, "N K"], chunks: Int64[Tensor, " N"]) -> "ScoreSums":
        """Add up images of which `chunks` has the chunk."""
        log_p = logits.double().log_softmax(1)
        p = log_p.exp()
        empty = torch.zeros(CHUNKS, logits.shape[1], dtype=torch.float64)
        return cls(
            chunks.bincount(minlength=CHUNKS).double(), empty.index_add(0, chunks, p),
            empty[:, 0].index_add(0, chunks, (p * log_p).sum(1)),
        )  # fmt: skip

    def __add__(self, other: "ScoreSums") -> "ScoreSums":
        return ScoreSums(self.counts + other.counts, self.probabilities + other.probabilities, self.entropies + other.entropies)

    def score(self) -> tuple[float, float]:
        """Return mean and standard deviation over chunks of exp(mean KL(p(y | x) | p(y))). NaN with an empty chunk."""
        q = self.probabilities / self.counts[:, None]
        scores = (self.entropies / self.counts - torch.xlogy(q, q).sum(1)).exp()
        return scores.mean().item(), scores.std(correction=0).item()
