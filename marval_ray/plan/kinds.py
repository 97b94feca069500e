"""What a plan asks of a family of models: a module of this folder for each, `mar` and `dcar`, which hold all that knows one of them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from marval_ray.config import GSIMConfig, RLConfig
from marval_ray.families.base import Codec, Contexts, FamilyConfig
from marval_ray.plan.cost import Work
from marval_ray.plan.counting import LiveBytes
from marval_ray.plan.zero import Engine
from marval_ray.reinforce.scoring import Scorer
from marval_ray.types import Tokens

Reader = Callable[[], object]
"""A text encoder: reads a text and returns what it keeps of those that it reads, to be held as long as the process that has it."""


class Kind(ABC):
    """One family's part of a plan; everything it makes is without storage."""

    def without_files(self, c: Any, texts: Path | None) -> FamilyConfig:
        """Return sizes with which models draw and learn without any file. texts: the text encoder's folder, where there is one."""
        return c

    def reader(self, c: Any) -> Reader:
        """Return what holds the text encoder of a process that draws or learns."""
        return lambda: None

    @abstractmethod
    def tokens(self, c: Any, batch: int) -> Tokens:
        """Return drawn images."""

    @abstractmethod
    def contexts(self, c: Any) -> Sequence[Contexts]:
        """Return training contexts, of which one takes most; the last one hides all tokens."""

    @abstractmethod
    def codec(self, c: Any) -> Codec:
        """Return a codec of the published sizes, frozen."""

    @abstractmethod
    def replays(self, rl: RLConfig) -> list[int]:
        """Return numbers of loops that a learner may replay, for a table."""

    @abstractmethod
    def held_by_loops(self, student: Engine, live: LiveBytes, batch: int, rl: RLConfig) -> list[int]:
        """Return the bytes that each loop of a rollout holds from its replay to the way back; empty if there is one to replay."""

    @abstractmethod
    def work(self, c: Any, gsim: GSIMConfig, rl: RLConfig, scorer: Scorer) -> Work:
        """Count the work of one image."""

    @abstractmethod
    def blocks(self, c: Any) -> int:
        """Return how many blocks work one after the other in a loop."""


def kind_of(c: FamilyConfig) -> Kind:
    """Return the part of the family's own module, which is imported when it is asked for."""
    return import_module(f"marval_ray.plan.{c.family.name}").KIND
