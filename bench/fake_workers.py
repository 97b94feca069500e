"""Rollout and reward workers that only take their time: what a controller sees of MAR, without the arithmetic.

They do without torch, which would take 300 MB in each of a hundred processes: requests and weights arrive as plain namespaces.
"""

import time
from types import SimpleNamespace

import numpy as np

LATENT = (256, 16)
"""Tokens and channels of an image of MAR."""
PAGE = 1024
"""Numbers in a page of memory."""


def request(indices: tuple[int, ...]) -> SimpleNamespace:
    return SimpleNamespace(draws=indices)


def weights(buffer: np.ndarray) -> SimpleNamespace:
    return SimpleNamespace(buffer=buffer)


class FakeRollout:
    """seconds: for an image."""

    def __init__(self, seconds: float, threads: int = 1):
        self.seconds = seconds

    def generate(self, weights: SimpleNamespace, request: SimpleNamespace) -> np.ndarray:
        time.sleep(self.seconds * len(request.draws))
        return np.zeros((len(request.draws), *LATENT), np.float32)

    def touch(self, weights: SimpleNamespace) -> float:
        """Read every page of the weights, as a copy to a GPU would."""
        return float(weights.buffer[::PAGE].sum())


class FakeReward:
    """seconds: for an image."""

    def __init__(self, seconds: float, threads: int = 1):
        self.seconds = seconds

    def score(self, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        time.sleep(self.seconds * len(drawn))
        return np.zeros(len(drawn), np.float32), np.zeros_like(drawn)
