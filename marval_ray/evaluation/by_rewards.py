"""What rewards give images of texts. Sets of prompts are large, and so are their images: each batch is scored and forgotten."""

import time
from collections.abc import Callable, Collection, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from marval_ray.evaluation.metrics import SPEED
from marval_ray.evaluation.sweep import Row
from marval_ray.families.generation import Generation
from marval_ray.types import Prompts

Scores = dict[str, Float[Tensor, " N"]]
"""Of images, by the name of the reward."""
Rewards = Callable[[Float[Tensor, "B C H W"], Sequence[str]], Scores]
"""Scores images in [-1, 1] for their prompts."""


def measure_by_rewards(
    name: str, generation: Generation, prompts: Prompts, seed: int, rewards: Rewards, kept: Collection[int] = ()
) -> tuple[Row, Scores, list[Float[Tensor, "C H W"]]]:
    """Draw an image for each prompt; return the speed (decoding included), all scores, and the images whose numbers are in `kept`."""
    parts: list[Scores] = []
    pictures: list[Tensor] = []
    seconds = 0.0
    with tqdm(desc=f"{name} N_AR={generation.loops}", total=len(prompts), unit="image") as bar:
        for first in range(0, len(prompts), generation.batch):
            part = prompts[first : first + generation.batch]
            began = time.perf_counter()
            images = generation.images(part, seed, first=first)
            seconds += time.perf_counter() - began
            parts.append(rewards(images, part.texts))
            pictures += [image.clone() for number, image in enumerate(images, first) if number in kept]
            bar.update(len(images))
    scores = {reward: torch.cat([part[reward] for part in parts]) for reward in parts[0]}
    return {"model": name, "n_ar": generation.loops, "samples": len(prompts), SPEED.name: len(prompts) / seconds}, scores, pictures
