"""Rollout and reward workers that only take their time: what a controller sees of MAR, without the arithmetic."""

import time

import numpy as np

from marval_ray.types import Request, Weights

LATENT = (256, 16)
"""Tokens and channels of an image of MAR."""
PAGE = 1024
"""Numbers in a page of memory."""


class FakeRollout:
    """seconds: for an image."""

    def __init__(self, seconds: float, threads: int = 1):
        self.seconds = seconds

    def generate(self, weights: Weights, request: Request) -> np.ndarray:
        time.sleep(self.seconds * len(request.indices))
        return np.zeros((len(request.indices), *LATENT), np.float32)

    def touch(self, weights: Weights) -> float:
        """Read every page of the weights, as a copy to a GPU would."""
        return float(weights.buffer[::PAGE].sum())


class FakeReward:
    """seconds: for an image."""

    def __init__(self, seconds: float, threads: int = 1):
        self.seconds = seconds

    def score(self, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        time.sleep(self.seconds * len(drawn))
        return np.zeros(len(drawn), np.float32), np.zeros_like(drawn)
