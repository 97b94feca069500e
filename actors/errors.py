"""Errors that crossed Ray, as one sentence; the whole of them goes into a log."""

import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError, UserCodeException

from marval_ray import cli

COLOURS = re.compile(r"\x1b\[[0-9;]*m")
ANSWER = 600.0
"""Seconds that an actor may take which only writes things down."""


class WorkerError(ValueError):
    """A worker cannot do what it was asked; the message says which and why."""


def sentence(error: BaseException) -> str:
    """Say in one line what was raised first, wherever that was."""
    cause = cause_of(error)
    if isinstance(cause, UserCodeException):  # Ray Data keeps what was raised as text alone
        return _lines(str(error).split("The above exception was the direct cause")[0])[-1]
    lines = _lines(str(cause))
    if isinstance(cause, RayError):
        return lines[-1]  # what a traceback in text ends with
    return lines[0] if isinstance(cause, (ValueError, OSError)) else f"{type(cause).__name__}: {lines[0]}"


def cause_of(error: BaseException) -> BaseException:
    """Go down to what a task raised."""
    if isinstance(error, RayTaskError) and isinstance(error.cause, BaseException):
        return cause_of(error.cause)
    return error


def _lines(text: str) -> list[str]:
    return [line.strip() for line in COLOURS.sub("", text).splitlines() if line.strip()] or ["no reason given"]


def write_down(log: Path, details: str) -> None:
    """Append `details` to `log`, with the time."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        print(datetime.now().isoformat(timespec="seconds"), details, sep="\n", file=file)


def whole(error: BaseException) -> str:
    """Write out an error with all its causes and tracebacks."""
    return COLOURS.sub("", "".join(traceback.format_exception(error)))


@contextmanager
def plainly(log: Path) -> Iterator[None]:
    """Turn an error of Ray, or of a worker, into a ValueError of one sentence that names `log`, where the whole goes."""
    try:
        yield
    except (RayError, WorkerError) as error:
        write_down(log, whole(error))
        raise ValueError(f"{sentence(error)} (more in {log})") from error


def run(
    main: Callable[[Any], None], config_type: type, description: str | None, log: Callable[[Any], Path], default: Any = None
) -> None:
    """Do what `cli.run` does, for a job that uses Ray. log: the file for what Ray has to say, from the configuration."""

    def job(config: Any) -> None:
        with plainly(log(config)):
            main(config)

    cli.run(job, config_type, description, default)


def answer(reference: ray.ObjectRef, who: str, seconds: float = ANSWER) -> Any:
    """Return what an actor answers. Raises WorkerError when it takes longer than `seconds`."""
    try:
        return ray.get(reference, timeout=seconds)
    except GetTimeoutError as error:
        raise WorkerError(f"{who} did not answer within {seconds:g} s: look at its log in the Ray dashboard") from error
