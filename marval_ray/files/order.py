"""The order in which training reads the rows of one rank: a function of (seed, step), so that nothing has to be replayed to resume."""

from functools import lru_cache

import numpy as np
from jaxtyping import Int64


class Order:
    """Rows 0..rows - 1, which are those of rank number `rank`; each epoch has its own permutation."""

    def __init__(self, rows: int, rank: int):
        self.rows, self.rank = rows, rank

    def batch(self, seed: int, step: int, size: int) -> Int64[np.ndarray, " size"]:
        """Return the rows of batch number `step`."""
        places = np.arange(step * size, (step + 1) * size)
        epochs, offsets = places // self.rows, places % self.rows
        return np.array([self._permutation(seed, e)[o] for e, o in zip(epochs.tolist(), offsets.tolist())])

    @lru_cache(maxsize=2)  # noqa: B019  (it lives as long as its process)
    def _permutation(self, seed: int, epoch: int) -> np.ndarray:
        return np.random.default_rng((seed, epoch, self.rank, 0)).permutation(self.rows)
