"""The frozen dataclasses that cross the borders between modules, processes and machines."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

from marval_ray.draws import Draws


@dataclass(frozen=True)
class Prompts:
    """What a batch of images is to show: a text each, and for models of classes the label, 0..num_classes - 1."""

    texts: tuple[str, ...]
    labels: Int64[Tensor, " B"] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, places: Sequence[int] | slice) -> "Prompts":
        """Return those at `places`, in their order."""
        if isinstance(places, slice):
            places = range(*places.indices(len(self)))
        labels = None if self.labels is None else self.labels[list(places)]
        return Prompts(tuple(self.texts[place] for place in places), labels)

    @property
    def numbers(self) -> Int64[Tensor, " B"]:
        """Return which prompt each of them is: its label, or of texts alone the same number for the same text."""
        if self.labels is not None:
            return self.labels
        found = {text: number for number, text in enumerate(dict.fromkeys(self.texts))}
        return torch.tensor([found[text] for text in self.texts])

    def each(self, times: int) -> "Prompts":
        """Return each of them so many times: the first, the first again, ..., the last."""
        return self[[place // times for place in range(times * len(self))]]

    def in_turn(self, count: int) -> "Prompts":
        """Return `count` of them: the first, the second, ..., the last, the first again."""
        return self[[place % len(self) for place in range(count)]]

    @classmethod
    def of_labels(cls, labels: Int64[Tensor, " B"]) -> "Prompts":
        """Ask for classes by their labels; the texts say no more than the number."""
        return cls(tuple(f"class {label}" for label in labels.tolist()), labels)

    @classmethod
    def classes_in_turn(cls, num_classes: int, count: int) -> "Prompts":
        """Ask for `count` images of the classes in turn: 0, 1, ..., 0, 1, ..."""
        return cls.of_labels(torch.arange(count) % num_classes)

    @classmethod
    def of_classes(cls, texts: Sequence[str]) -> "Prompts":
        """Return the prompts of all classes: text c is that of the label c."""
        return cls(tuple(texts), torch.arange(len(texts)))

    @classmethod
    def cat(cls, parts: Sequence["Prompts"]) -> "Prompts":
        """Put batches of one kind together, in their order."""
        labels = [part.labels for part in parts if part.labels is not None]
        return cls(sum((part.texts for part in parts), ()), torch.cat(labels) if labels else None)


@dataclass(frozen=True)
class Tokens:
    """Images as a model has them. Gradients are of `values`; hidden tokens are zero.

    values: normalised latents, about N(0, 1). codes: of models with discrete tokens, too. revealed: the loop (0..) in which each
    token came, -1 for hidden ones; of models whose order does not follow from the draws.
    """

    values: Float[Tensor, "B L D"]
    codes: Int64[Tensor, "B L"] | None = None
    revealed: Int64[Tensor, "B L"] | None = None

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: slice) -> "Tokens":
        return Tokens(*(None if part is None else part[rows] for part in self._parts()))  # type: ignore[arg-type]  # values are there

    def to(self, device: torch.device | str) -> "Tokens":
        return Tokens(*(None if part is None else part.to(device) for part in self._parts()))  # type: ignore[arg-type]

    @classmethod
    def cat(cls, parts: Sequence["Tokens"]) -> "Tokens":
        """Put batches of one kind together, in their order."""
        columns = zip(*(part._parts() for part in parts), strict=True)
        return cls(*(None if column[0] is None else torch.cat(column) for column in columns))  # type: ignore[arg-type]

    def _parts(self) -> tuple[Tensor | None, ...]:
        return self.values, self.codes, self.revealed


@dataclass(frozen=True)
class Weights:
    """All parameters of a student in one buffer: float32, or bfloat16 as its bits (int16).

    version: the number of updates that made them; checksum: of the buffer's bits.
    """

    version: int
    buffer: Shaped[np.ndarray, " N"]
    checksum: int


@dataclass(frozen=True)
class Request:
    """Images to draw in so many loops: image i with the randomness `draws[i]` for the prompt i."""

    draws: Draws
    prompts: Prompts
    loops: int


@dataclass(frozen=True)
class Rollout:
    """Images that a student drew in so many loops.

    version: the number of the weights that drew them; checksum: of those weights.
    """

    tokens: Tokens
    prompts: Prompts
    draws: Draws
    loops: int
    version: int
    checksum: int

    def __len__(self) -> int:
        return len(self.draws)

    def __getitem__(self, rows: slice) -> "Rollout":
        return replace(self, tokens=self.tokens[rows], prompts=self.prompts[rows], draws=self.draws[rows])

    def to(self, device: torch.device | str) -> "Rollout":
        return replace(self, tokens=self.tokens.to(device))


@dataclass(frozen=True)
class TimedRollout:
    """A rollout and the seconds it took."""

    rollout: Rollout
    seconds: float


@dataclass(frozen=True)
class Scored:
    """Rewards of a rollout's images, and d score / d tokens of each where the reward has a gradient."""

    score: Float[Tensor, " B"]
    gradient: Float[Tensor, "B L D"] | None

    def __getitem__(self, rows: slice) -> "Scored":
        return Scored(self.score[rows], None if self.gradient is None else self.gradient[rows])

    def finite(self) -> Bool[Tensor, " B"]:
        """Tell which images have a usable score and gradient."""
        good = self.score.isfinite()
        return good if self.gradient is None else good & self.gradient.flatten(1).isfinite().all(1)


@dataclass(frozen=True)
class Delivery:
    """A scored rollout, and the seconds that drawing and scoring took."""

    rollout: Rollout
    scored: Scored
    rollout_seconds: float
    reward_seconds: float
