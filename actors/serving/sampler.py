"""A thread that draws images by continuous batching, and gives each to whoever asked as soon as it is finished."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from time import perf_counter
from typing import Protocol

import numpy as np
import torch
from jaxtyping import UInt8

from marval_ray.families.base import Backbone, Codec, Drawing, FamilyConfig, Wish
from marval_ray.files.images import to_pixels
from marval_ray.types import Prompts, Tokens

Preview = Callable[[int, np.ndarray], None]
"""Gets the number of loops that are done, and the pixels (H, W, C) so far."""


@dataclass(frozen=True)
class Served:
    """The student in use. version: names its weights. texts: where the text encoder lies of one that reads texts."""

    model: Backbone
    codec: Codec
    version: str
    texts: Path | None = None

    def unread(self, text: str) -> str:
        """Return the end of a prompt that the model does not read."""
        return self.model.config.family.unread(text, self.model, self.texts)

    def begin(self, wish: Wish) -> Drawing:
        """Begin an image."""
        return self.model.config.family.begin(wish, self.model, self.texts)

    def advance(self, drawings: Sequence[Drawing]) -> None:
        """Run one loop of each; none is finished."""
        self.model.config.family.advance(drawings)

    @torch.inference_mode()
    def pixels(self, drawings: Sequence[Drawing]) -> UInt8[np.ndarray, "N H W C"]:
        """Decode drawings, finished or not; what is not drawn yet is an empty latent."""
        return to_pixels(self.codec.decode(Tokens.cat([drawing.tokens for drawing in drawings])))


@dataclass(frozen=True)
class Picture:
    """A finished image, uint8, and the version of the student that drew it."""

    pixels: UInt8[np.ndarray, "H W C"]
    version: str


@dataclass(eq=False)
class Ticket:
    """A wish that is asked for. Set `abandoned` and its drawing ends with the loop that it is at."""

    wish: Wish
    previews: frozenset[int]
    """After how many loops `on_preview` is called."""
    on_preview: Preview | None
    picture: Future[Picture] = field(default_factory=Future)
    abandoned: bool = False
    asked: float = field(default_factory=perf_counter)


class Observer(Protocol):
    """Told of what the sampler does, in its thread."""

    def batch(self, size: int, seconds: float) -> None:
        """Note that one loop of `size` images took `seconds`."""

    def began(self, waited: float) -> None:
        """Note that an image waited so many seconds for its first loop."""

    def finished(self, took: float) -> None:
        """Note that an image is there, so many seconds after it was asked for."""


class Nobody:
    """An observer that does not care."""

    def batch(self, size: int, seconds: float) -> None: ...
    def began(self, waited: float) -> None: ...
    def finished(self, took: float) -> None: ...


@dataclass(eq=False)
class _Active:
    ticket: Ticket
    served: Served
    drawing: Drawing

    @property
    def due(self) -> bool:
        """Whether somebody looks at it now."""
        return self.drawing.finished or self.drawing.done in self.ticket.previews


class SamplerThread(threading.Thread):
    """Draws up to `max_batch` images at once. `served` may be replaced at any time: images end with what they began."""

    def __init__(self, served: Served, max_batch: int, threads: int, observer: Observer | None = None):
        super().__init__(name="sampler", daemon=True)
        self.served, self.max_batch, self.threads, self.observer = served, max_batch, threads, observer or Nobody()
        self.waiting: SimpleQueue[Ticket | None] = SimpleQueue()
        self.active: list[_Active] = []
        self.closing = False

    def submit(self, wish: Wish, previews: int = 0, on_preview: Preview | None = None) -> Ticket:
        """Ask for an image, with `previews` looks at it on the way, evenly spread over its loops."""
        loops = {round(wish.loops * (k + 1) / (previews + 1)) for k in range(previews)}
        ticket = Ticket(wish, frozenset(loops), on_preview)
        # From now on the future cannot be cancelled: this thread alone ends it, whatever becomes of those who wait.
        ticket.picture.set_running_or_notify_cancel()
        self.waiting.put(ticket)
        if not self.is_alive():
            self._fail(ticket)
        return ticket

    def close(self) -> None:
        """End after the loop that is under way."""
        self.closing = True
        self.waiting.put(None)
        self.join()

    def run(self) -> None:
        torch.set_num_threads(self.threads)  # OpenMP has a number for each thread that calls it
        try:
            while not self.closing:
                self._admit()
                for served in dict.fromkeys(item.served for item in self.active):
                    self._advance([item for item in self.active if item.served is served])
                self.active = [item for item in self.active if not item.drawing.finished]
        finally:
            while not self.waiting.empty():
                if ticket := self.waiting.get():
                    self._fail(ticket)
            for item in self.active:
                self._fail(item.ticket)

    def _fail(self, ticket: Ticket) -> None:
        if not ticket.picture.done():
            ticket.picture.set_exception(RuntimeError("the sampler has ended"))

    def _admit(self) -> None:
        """Take new wishes in, waiting for one when there is nothing to do."""
        self.active = [item for item in self.active if not item.ticket.abandoned]
        while len(self.active) < self.max_batch and not (self.active and self.waiting.empty()):
            ticket = self.waiting.get()
            if ticket is None:
                return
            if not ticket.abandoned:
                self.active.append(_Active(ticket, self.served, self.served.begin(ticket.wish)))
                self.observer.began(perf_counter() - ticket.asked)

    def _advance(self, items: list[_Active]) -> None:
        began, served = perf_counter(), items[0].served
        served.advance([item.drawing for item in items])
        due = [item for item in items if item.due]
        for item, pixels in zip(due, served.pixels([item.drawing for item in due]) if due else [], strict=True):
            if item.ticket.abandoned:  # its event loop may be gone
                continue
            if not item.drawing.finished and item.ticket.on_preview:
                item.ticket.on_preview(item.drawing.done, pixels)
            elif item.drawing.finished:
                item.ticket.picture.set_result(Picture(pixels, item.served.version))
                self.observer.finished(perf_counter() - item.ticket.asked)
        self.observer.batch(len(items), perf_counter() - began)


def canary(config: FamilyConfig, seed: int = 0) -> Wish:
    """Return an image that any student of this config can draw."""
    label = None if config.num_classes is None else torch.zeros(1, dtype=torch.int64)
    return Wish(Prompts(("a picture",), label), seed, loops=2)


def check_draws(served: Served, student: Path) -> None:
    """Raise ValueError when the student's image of a fixed seed is blank or has numbers that are not finite."""
    drawing = served.begin(canary(served.model.config))
    while not drawing.finished:
        served.advance([drawing])
    (pixels,) = served.pixels([drawing])
    if not drawing.tokens.values.isfinite().all() or pixels.min() == pixels.max():
        raise ValueError(f"{student} draws blank images or numbers that are not finite: train it again, or take another")
