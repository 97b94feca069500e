"""SIGTERM, as `ray job stop` sends it, and Ctrl-C."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """A signal came; the message says how to go on."""

    def __init__(self, number: signal.Signals, message: str):
        super().__init__(message)
        self.number = number


@contextmanager
def handled(do: Callable[[signal.Signals], object]) -> Iterator[None]:
    """Call `do` on SIGTERM and Ctrl-C, in the main thread; afterwards what handled them before does so again.

    Ray sets handlers of its own: use this after `ray.init`. Does nothing in other threads, which Python gives no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda received, _: do(signal.Signals(received))) for number in NUMBERS}
    try:
        yield
    except SystemError as error:  # what Ray's compiled calls make of an error that a handler raises in the midst of them
        if isinstance(error.__cause__, Stopped):
            raise error.__cause__ from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def on_signal(action: Callable[[int, Any], None]) -> None:
    """Let both signals do `action` from now on, with the signal's number and the frame that it met."""
    for number in NUMBERS:
        signal.signal(number, action)


def leave(number: int, _: Any) -> None:
    """End at once, by the exit code that shells give to a signal; Python's exit handlers take along what Ray has started."""
    print("ended by a signal", file=sys.stderr, flush=True)
    sys.exit(128 + number)


def hold_back() -> None:
    """Let signals wait until `let_through`; call it before anything else starts threads, which would take them.

    From some moment in `ray.init` on Ray's C++ has a handler for SIGTERM that writes a stack and aborts.
    """
    os.register_at_fork(after_in_child=let_through)  # Ray ends its processes by SIGTERM
    signal.pthread_sigmask(signal.SIG_BLOCK, NUMBERS)


def let_through() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, NUMBERS)


def leave_if_asked(seconds: float = 0) -> None:
    """Wait so long for a signal that is held back, and end if there is one."""
    if caught := signal.sigtimedwait(NUMBERS, seconds):
        leave(caught.si_signo, None)


def stop_now(number: signal.Signals) -> None:
    """Raise Stopped: where nothing waits for a checkpoint."""
    raise Stopped(number, f"stopped on {number.name}; --resume goes on")
