"""SIGTERM, as `ray job stop` sends it, and Ctrl-C."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


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
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda received, _: do(signal.Signals(received))) for number in numbers}
    try:
        yield
    except SystemError as error:  # what Ray's compiled calls make of an error that a handler raises in the midst of them
        if isinstance(error.__cause__, Stopped):
            raise error.__cause__ from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
