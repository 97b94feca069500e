"""Which images are drawn for which update: the same for a seed, however many workers there are."""

import math

import numpy as np

from marval_ray.config import RLConfig
from marval_ray.draws import Draws
from marval_ray.types import Prompts, Request

LOOPS = 1
"""Keeps the draws of N_AR apart from those of prompts."""


def requests(config: RLConfig, batch: int, prompts: Prompts, seed: int, step: int) -> list[Request]:
    """Return the requests of batch `step`, `batch` images in all.

    Each batch has its own N_AR, one of `config.loops`. Prompts come in turn from permutations of all; policy gradients want
    `group` images of each. Where values explore these start alike, so that what tells their rewards apart is the exploration alone.
    """
    repeat = config.group if config.in_groups else 1
    alike = config.group if config.estimator == "policy" else 1
    count, number = math.ceil(batch / repeat), len(prompts)
    first, last = step * count, (step + 1) * count
    rounds = range(first // number, (last - 1) // number + 1)
    order = np.concatenate([np.random.default_rng((seed, turn)).permutation(number) for turn in rounds])
    start = first - rounds.start * number
    wanted = prompts[order[start : start + count].repeat(repeat)[:batch].tolist()]
    loops = config.loops[np.random.default_rng((seed, step, LOOPS)).integers(len(config.loops))]
    draws = Draws(seed, tuple(range(step * batch, (step + 1) * batch)), alike)
    chunks = (slice(i, i + config.chunk) for i in range(0, batch, config.chunk))
    return [Request(draws[chunk], wanted[chunk], loops) for chunk in chunks]
