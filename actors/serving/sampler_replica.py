"""The replica that draws: a Ray Serve deployment around the thread of actors/serving/sampler.py."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actors.prometheus import ServingSeries
from actors.serving.api import PartialImage, Png, State
from actors.serving.endpoint_config import EndpointConfig
from actors.serving.sampler import Preview, SamplerThread, Served, Ticket, canary, check_draws
from marval_ray.device import own_device
from marval_ray.families.base import FamilyConfig, Wish
from marval_ray.files.checksums import sha256
from marval_ray.files.images import encode_png
from marval_ray.hub.layout import codec_beside, load_model, read_config, texts_beside
from marval_ray.runs.students import student_of, students

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Sampler:
    """Draws single images; those that are asked for at the same time share batches."""

    def __init__(self, config: EndpointConfig, model: FamilyConfig):
        self.options, self.model = config, model
        self.unfinished, self.most = 0, config.batch + config.queue
        self.device = own_device()
        self.thread: SamplerThread | None = None
        self.refused: str | None = None

    async def reconfigure(self, user_config: dict[str, Any]) -> str | None:
        """Use the student at `checkpoint` from the next image on; say why if it cannot be served, and stay with the one in use.

        Serve calls it before the first request as well. Raises ValueError when there is no student in use to stay with.
        """
        checkpoint = Path(user_config["checkpoint"])
        # A thread that ends takes its OpenMP team along; with more teams than cores libgomp would slow the sampler's down for good.
        with ThreadPoolExecutor(1) as own:
            work = asyncio.get_running_loop().run_in_executor
            if self.thread is None:
                await self._begin(await work(own, self._first, checkpoint))
                return None
            try:
                self.thread.served = await work(own, self._load, student_of(checkpoint))
                self.refused = None
            except (ValueError, OSError, torch.OutOfMemoryError) as error:
                self.refused = str(error).replace(f"{checkpoint}/", "").replace(str(checkpoint), "it")  # /healthz tells it to strangers
        return self.refused

    async def _begin(self, served: Served) -> None:
        # Ray gives a worker as many threads as CPUs that it asked for, and one CPU would leave the others of a laptop idle.
        threads = self.options.threads or len(os.sched_getaffinity(0))
        thread = SamplerThread(served, self.options.batch, threads, ServingSeries())
        thread.start()
        warm = [thread.submit(canary(self.model, seed)) for seed in range(self.options.batch)]
        await asyncio.gather(*(asyncio.wrap_future(ticket.picture) for ticket in warm))
        self.thread = thread

    def _first(self, checkpoint: Path) -> Served:
        """Load the checkpoint, or of a run the newest student that can be served. Raises ValueError when there is none."""
        reasons = []
        for student in students(checkpoint) if checkpoint.is_dir() else [checkpoint]:
            try:
                return self._load(student)
            except (ValueError, OSError) as error:
                reasons.append(str(error))
        raise ValueError("; ".join(reasons) or f"{checkpoint} has no student")

    def _load(self, student: Path) -> Served:
        """Load a student with its codec. Raises ValueError when one is damaged, the model is another, or draws nothing."""
        if read_config(student.parent) != self.model:
            raise ValueError(f"{student} is a student of another model: start a server of its own for it")
        model = load_model(student, self.model).to(self.device, DTYPES[self.options.dtype]).eval()
        codec = self.model.family.codec(self.options.vae or codec_beside(student), self.model).to(self.device)
        served = Served(model, codec, version_of(student), self.options.texts or texts_beside(student))
        check_draws(served, student)
        return served

    async def draw(self, wish: Wish) -> Png | None:
        """Draw the image; return None when as many wait as may: Serve would write a traceback for an exception."""
        if self.unfinished >= self.most:
            return None
        with self._submitted(wish) as ticket:
            picture = await asyncio.wrap_future(ticket.picture)
        return Png(await asyncio.to_thread(encode_png, picture.pixels), picture.version)

    async def watch(self, wish: Wish, partials: int) -> AsyncIterator[PartialImage | Png]:
        """Yield the image on its way, `partials` times, then finished; nothing when as many wait as may."""
        if self.unfinished >= self.most:
            return
        loop, news = asyncio.get_running_loop(), asyncio.Queue[tuple[int, np.ndarray] | None]()

        def on_preview(loops: int, pixels: np.ndarray) -> None:
            loop.call_soon_threadsafe(news.put_nowait, (loops, pixels))

        with self._submitted(wish, partials, on_preview) as ticket:
            ticket.picture.add_done_callback(lambda _: loop.call_soon_threadsafe(news.put_nowait, None))
            while (item := await news.get()) is not None:
                yield PartialImage(await asyncio.to_thread(encode_png, item[1]), item[0])
            picture = ticket.picture.result()
        yield Png(await asyncio.to_thread(encode_png, picture.pixels), picture.version)

    @contextmanager
    def _submitted(self, wish: Wish, partials: int = 0, on_preview: Preview | None = None) -> Iterator[Ticket]:
        """Submit an image, which is drawn as long as somebody waits for it."""
        ticket = self._running().submit(wish, partials, on_preview)
        self.unfinished += 1
        try:
            yield ticket
        finally:
            ticket.abandoned = True
            self.unfinished -= 1

    async def unread(self, text: str) -> str:
        """Return the end of a prompt that the student does not read."""
        return self._running().served.unread(text)

    async def state(self) -> State:
        thread = self._running()
        return State(thread.served.version, len(thread.active), self.refused)

    def check_health(self) -> None:
        """Raise RuntimeError when the thread has ended; Serve then replaces the replica."""
        self._running()

    def _running(self) -> SamplerThread:
        if self.thread is None or not self.thread.is_alive():
            raise RuntimeError("the sampler's thread has ended")
        return self.thread


def version_of(checkpoint: Path) -> str:
    """Return the first 12 digits of the file's SHA-256."""
    return sha256(checkpoint)[:12]
