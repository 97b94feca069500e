"""What Ctrl-C and SIGTERM do to a process that serves."""

import signal
import sys
from collections.abc import Callable
from typing import Any


def on_signal(action: Callable[[int, Any], None]) -> None:
    """What both do from now on, with the signal's number and the frame that it met."""
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, action)


def leave(number: int, _: Any) -> None:
    """End at once, by the exit code that shells give to a signal; Python's exit handlers take along what Ray has started."""
    print("ended by a signal", file=sys.stderr, flush=True)
    sys.exit(128 + number)
