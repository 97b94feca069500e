"""Preference pairs of images, and PickScore's loss on them."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from marval_ray.embedded.degradations import DEGRADATIONS


def preference_loss(preferred: Float[Tensor, " B"], other: Float[Tensor, " B"]) -> Float[Tensor, ""]:
    """Return -log softmax of the preferred image's score among the two (Kirstain et al., arXiv 2305.01569, eq. 1 and 2)."""
    return -F.logsigmoid(preferred - other).mean()


def flipped(images: Float[Tensor, "B C H W"], generator: torch.Generator) -> Float[Tensor, "B C H W"]:
    """Mirror half of the images."""
    return torch.where(torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5, images.flip(-1), images)


@dataclass(frozen=True)
class Pool:
    """Images in [-1, 1] with their labels, to draw from by class."""

    images: Float[Tensor, "N 1 H W"]
    labels: Int64[Tensor, " N"]
    rows: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", [(self.labels == c).nonzero().flatten() for c in range(int(self.labels.max()) + 1)])

    def draw(self, labels: Int64[Tensor, " B"], generator: torch.Generator) -> Float[Tensor, "B 1 H W"]:
        """Draw a random image of each label."""
        places = torch.rand(len(labels), generator=generator)
        rows = [self.rows[c][int(place * len(self.rows[c]))] for c, place in zip(labels.tolist(), places.tolist())]
        return self.images[torch.stack(rows)]


@dataclass(frozen=True)
class Pairs:
    """Draws preference pairs of one split."""

    real: Pool
    student: Pool
    one_step: Pool
    noisy_latents: Pool

    KINDS = (*DEGRADATIONS, "noisy latents", "other class", "one step", "student", "student", "student")
    """In turn; the hardest comes three times."""

    def draw(
        self, kind: str, labels: Int64[Tensor, " B"], generator: torch.Generator
    ) -> tuple[Float[Tensor, "B 1 H W"], Float[Tensor, "B 1 H W"]]:
        """Draw (preferred, other) images for prompts of the classes `labels`."""
        good = flipped(self.real.draw(labels, generator), generator)
        if kind in DEGRADATIONS:
            return good, DEGRADATIONS[kind](good, generator)
        if kind == "other class":
            classes = len(self.real.rows)
            shift = torch.randint(1, classes, labels.shape, generator=generator)
            return good, self.real.draw((labels + shift) % classes, generator)
        if kind == "one step":
            # Half of the preferred images are the student's: quality counts, not only being real.
            choice = torch.rand(len(labels), 1, 1, 1, generator=generator) < 0.5
            return torch.where(choice, good, self.student.draw(labels, generator)), self.one_step.draw(labels, generator)
        bad = self.noisy_latents if kind == "noisy latents" else self.student
        return good, bad.draw(labels, generator)
