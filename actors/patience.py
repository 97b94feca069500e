"""Waiting for actors: within limits, with replacement of those that do not answer, and until somebody calls it off."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayError, RayTaskError

from actors.errors import WorkerError, cause_of, sentence

LOOK = 1.0
"""Seconds between two looks at whether the wait is called off."""
START = 1800.0
"""Seconds that a worker may take to load what it works with."""


class CalledOff(Exception):
    """Nobody wants the answers any more."""


class Patience:
    """Waits for answers. seconds: how long one may take; replacements: how often a sick actor is replaced for it.

    stopping: asked every second whether to go on waiting.
    """

    def __init__(self, seconds: float, stopping: Callable[[], bool] = lambda: False, replacements: int = 3):
        self.seconds, self.stopping, self.replacements = seconds, stopping, replacements
        self.replaced = 0

    def results(self, references: Sequence[ray.ObjectRef], sick: Callable[[list[ray.ObjectRef]], dict[str, Any]]) -> list[Any]:
        """Return what `references` give, in their order. `sick` says by name which actors have the late ones.

        An actor that does not answer in time is killed; Ray starts it anew and repeats its calls. Raises WorkerError when that
        does not help or an actor raised something, and CalledOff.
        """
        there: dict[ray.ObjectRef, Any] = {}
        for _ in range(self.replacements + 1):
            late = self._gather([reference for reference in references if reference not in there], there)
            if not late:
                return [there[reference] for reference in references]
            culprits = sick(late)
            for actor in culprits.values():
                ray.kill(actor, no_restart=False)
            self.replaced += len(culprits)
        raise WorkerError(
            f"no answer within {self.seconds:g} s from {', '.join(sorted(culprits))}, replaced {self.replacements} times: "
            "raise rl.timeout, or look at the worker's log in the Ray dashboard"
        )

    def _gather(self, late: list[ray.ObjectRef], there: dict[ray.ObjectRef, Any]) -> list[ray.ObjectRef]:
        """Put into `there` what comes in time, and return what does not. The first error ends the wait for the others."""
        end = time.monotonic() + self.seconds
        while late and (left := end - time.monotonic()) > 0:
            came, late = ray.wait(late, num_returns=len(late), timeout=min(LOOK, left))
            there.update(zip(came, results_of(came), strict=True))
            if late and self.stopping():
                raise CalledOff
        return late


def results_of(references: Sequence[ray.ObjectRef]) -> list[Any]:
    """Return what is there. Raises WorkerError for what a worker's own code raised; what Ray lost, a restart may bring back."""
    try:
        return ray.get(list(references))
    except RayTaskError as error:
        if isinstance(cause_of(error), RayError):
            raise
        raise WorkerError(sentence(error)) from error
    except ActorDiedError as error:
        if not error.actor_init_failed:
            raise
        raise WorkerError(sentence(error)) from error


def started(actors: dict[str, Any], stopping: Callable[[], bool] = lambda: False) -> float:
    """Have the named actors start, and return the seconds that took. Raises WorkerError when one cannot."""
    began, patience = time.monotonic(), Patience(START, stopping, 0)
    ready = {actor.start.remote(): name for name, actor in actors.items()}
    for reference, name in ready.items():
        try:
            patience.results([reference], lambda late: {ready[late[0]]: actors[ready[late[0]]]})
        except WorkerError as error:
            raise WorkerError(f"{name} cannot start: {error}") from error
    return time.monotonic() - began
