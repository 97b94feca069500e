"""FID and its kin of images whose features come in parts, as torch-fidelity and ADM's suite give them."""

from collections.abc import Iterable
from functools import reduce
from math import isnan
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from marval_ray.evaluation.adm import Reference
from marval_ray.evaluation.frechet import frechet_distance
from marval_ray.evaluation.inception import InceptionFeatures
from marval_ray.evaluation.inception_score import ScoreSums, chunks_of
from marval_ray.evaluation.kernel import kernel_distance_of_subsets
from marval_ray.evaluation.metrics import PROMPTS, REWARD, REWARD_FORM, Metric, error_of, markdown_table, rewards_in, with_error
from marval_ray.evaluation.moments import Moments
from marval_ray.evaluation.precision_recall import precision, recall

Figures = dict[str, Any]
"""Numbers by name; None where there is too little to tell."""

FIGURES = (
    Metric("fid", "FID", ".2f", "lower"),
    Metric("sfid", "sFID", ".2f", "lower"),
    Metric("inception_score", "IS", ".1f", "higher"),
    Metric("precision", "precision", ".3f", "higher"),
    Metric("recall", "recall", ".3f", "higher"),
    Metric("kid", "KID", ".5f", "lower"),
)
"""In the order of published tables."""


def row(facts: dict[str, Any], figures: Figures) -> str:
    """Return a table of one row in Markdown: `facts` about the model, then its figures, a dash for those that nobody could tell.

    Rewards that figures have stand behind, with their errors and the number of prompts that these are over.
    """
    rewards = rewards_in(figures)
    counted = {PROMPTS: figures[PROMPTS]} if rewards else {}
    heads = [*facts, *(metric.title for metric in FIGURES), *counted, *(name.removeprefix(REWARD) for name in rewards)]
    values = [figures.get(metric.name) for metric in FIGURES]
    cells = ["-" if value is None else metric.text(value) for metric, value in zip(FIGURES, values)]
    scored = [with_error(figures[name], figures[error_of(name)], REWARD_FORM) for name in rewards]
    return markdown_table(heads, [[*map(str, facts.values()), *cells, *map(str, counted.values()), *scored]])


class Gathered:
    """What is kept of the features of `images` images, which come in their order; only pooled ones are kept whole."""

    def __init__(self, images: int):
        self.chunks = chunks_of(images)
        self.pooled: list[Float[Tensor, "_ 2048"]] = []
        self.moments: list[Moments] = []
        self.spatial: list[Moments] = []
        self.sums: list[ScoreSums] = []
        self.count = 0

    def take(self, part: InceptionFeatures) -> None:
        """Take in the next part."""
        self.pooled.append(part.pooled)
        self.moments = [Moments.merged([*self.moments, Moments.of(part.pooled)])]
        self.spatial = [Moments.merged([*self.spatial, Moments.of(part.spatial)])]
        self.sums.append(ScoreSums.of(part.logits, self.chunks[self.count : self.count + len(part)]))
        self.count += len(part)


def inception_figures(
    parts: Iterable[InceptionFeatures], images: int, reference: Reference, real: Float[Tensor, "R 2048"] | None
) -> Figures:
    """Compare `images` images, whose features come in parts, with the reference, of whose images `real` are the pooled features.

    Returns fid, sfid, inception_score with its standard deviation over ten chunks, precision, recall, and kid with its
    standard deviation over subsets; None where there is too little to tell.
    """
    gathered = Gathered(images)
    for part in parts:
        gathered.take(part)
    samples = torch.cat(gathered.pooled)
    score, score_std = reduce(ScoreSums.__add__, gathered.sums).score()
    found = {"fid": frechet_distance(gathered.moments[0], reference.pooled)}
    found["sfid"] = float("nan") if reference.spatial is None else frechet_distance(gathered.spatial[0], reference.spatial)
    found |= {"inception_score": score, "inception_score_std": score_std}
    if real is not None:
        kid, kid_std = kernel_distance_of_subsets(real, samples)
        found |= {"precision": precision(real, samples), "recall": recall(real, samples), "kid": kid, "kid_std": kid_std}
    return {name: None if isnan(value) else value for name, value in found.items()}
