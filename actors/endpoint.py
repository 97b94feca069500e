"""The Ray Serve application: `Api` speaks HTTP on CPUs, `Sampler` draws, on GPUs where there are any.

A request is split into images, one call of a `Sampler` each, so that images of different requests share batches.
"""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from fastapi import FastAPI
from pydantic import ConfigDict, TypeAdapter
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from ray.util.metrics import Counter, Histogram

from actors.api import Backend, Look, Png, Rules, State, make_app
from actors.api_errors import Busy
from actors.image_request import Card
from actors.resources import resources
from actors.sampler import Observer, Preview, SamplerThread, Served, Ticket
from marval_ray import assets_index
from marval_ray.class_names import names_of
from marval_ray.config import ModelConfig
from marval_ray.continuous import Wish
from marval_ray.images import encode_png
from marval_ray.models.vae import load_vae
from marval_ray.source import student_of, vae_beside
from marval_ray.weights import load_model, read_config

KEY_VARIABLE = "MARVAL_API_KEY"
API_CPUS = 0.5
KEEP_MEMORY = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "1000000000", "MALLOC_TRIM_THRESHOLD_": "1000000000"}
"""Lets glibc reuse the memory of one loop in the next. Otherwise a thread that is not the main one gives it back and takes page
faults for it in each: a third of its speed on CPUs."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class EndpointConfig:
    """What is served and how; in a Serve config file these are `args`."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    checkpoint: Path = assets_index.STUDENT
    """A student with config.json beside it, or a run's folder, for its newest; by default the embedded one."""
    vae: Path | None = None
    """Autoencoder: a diffusers folder, or KL-16's file; by default the one that config.json names."""
    classes: Path | None = None
    """A text file with the name of each class on a line; by default ImageNet's, or those of the embedded models."""
    name: str = "marval"
    """The model's id in the API."""
    steps: int = 16
    """N_AR of requests that ask for none."""
    batch: int = 64
    """Most images that a replica draws at once."""
    queue: int = 256
    """Images that may wait for a replica beyond that; more are answered with 503."""
    deadline: float = 120.0
    """Seconds for a request."""
    min_replicas: int = 1
    max_replicas: int = 1
    """Replicas are added while each has more than `batch` images at once."""
    cpus: float = 1.0
    """Of a replica."""
    gpus: float = 0.0
    """Of a replica; may be a fraction."""
    threads: int = 0
    """CPU threads of a replica; 0 takes all of the machine's, more than its share when replicas have it together."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    key_file: Path | None = None
    """A file whose one line clients must send as bearer token. Without it the environment's MARVAL_API_KEY, if any."""
    origins: tuple[str, ...] = ()
    """Web origins that may call by CORS."""
    allowed_hosts: tuple[str, ...] = ()
    """Names that clients reach it by, such as a proxy's, or *; localhost and addresses always are."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "queue", "deadline", "min_replicas"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be more than 0, got {getattr(self, name)}")
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas {self.max_replicas} is less than min_replicas {self.min_replicas}")


class RayObserver(Observer):
    """The sampler's figures as Ray's metrics; Serve itself counts requests, their latency and queues."""

    def __init__(self) -> None:
        seconds = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100]
        sizes = [1.0, 2, 4, 8, 16, 32, 64, 128, 256]
        self._size = Histogram("marval_serve_batch_size", "Images that shared one loop.", boundaries=sizes)
        self._loop = Histogram("marval_serve_loop_seconds", "Time of one loop of a batch.", boundaries=seconds)
        self._wait = Histogram("marval_serve_wait_seconds", "From asking to the first loop.", boundaries=seconds)
        self._image = Histogram("marval_serve_image_seconds", "From asking to the image.", boundaries=seconds)
        self._images = Counter("marval_serve_images", "Finished images.")

    def batch(self, size: int, seconds: float) -> None:
        self._size.observe(size)
        self._loop.observe(seconds)

    def began(self, waited: float) -> None:
        self._wait.observe(waited)

    def finished(self, took: float) -> None:
        self._image.observe(took)
        self._images.inc()


class Sampler:
    """Draws single images; those that are asked for at the same time share batches."""

    def __init__(self, model: ModelConfig, vae: Path, batch: int, queue: int, threads: int, dtype: str):
        self.config, self.batch, self.dtype = model, batch, DTYPES[dtype]
        self.unfinished, self.most = 0, batch + queue
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.vae = load_vae(vae).to(self.device)
        # Ray gives a worker as many threads as CPUs that it asked for, and one CPU would leave the others of a laptop idle.
        self.threads = threads or len(os.sched_getaffinity(0))
        self.thread: SamplerThread | None = None

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Use the student at `checkpoint` from the next image on. Serve calls it before the first request as well."""
        # A thread that ends takes its OpenMP team along; with more teams than cores libgomp would slow the sampler's down for good.
        with ThreadPoolExecutor(1) as own:
            served = await asyncio.get_running_loop().run_in_executor(own, self._load, Path(user_config["checkpoint"]))
        if self.thread is None:
            self.thread = SamplerThread(served, self.batch, self.threads, RayObserver())
            self.thread.start()
            warm = [self.thread.submit(Wish(0, seed, loops=2)) for seed in range(self.batch)]
            await asyncio.gather(*(asyncio.wrap_future(ticket.picture) for ticket in warm))
        self.thread.served = served

    def _load(self, checkpoint: Path) -> Served:
        student = student_of(checkpoint)
        model = load_model(student, self.config).to(self.device, self.dtype).eval()
        return Served(model, self.vae, version_of(student))

    async def draw(self, wish: Wish) -> Png | None:
        """The image; None when as many wait as may: Serve would write a traceback for an exception."""
        if self.unfinished >= self.most:
            return None
        with self._submitted(wish) as ticket:
            picture = await asyncio.wrap_future(ticket.picture)
        return Png(await asyncio.to_thread(encode_png, picture.pixels), picture.version)

    async def watch(self, wish: Wish, looks: int) -> AsyncIterator[Look | Png]:
        """The image on its way, `looks` times, then finished; nothing when as many wait as may."""
        if self.unfinished >= self.most:
            return
        loop, news = asyncio.get_running_loop(), asyncio.Queue[tuple[int, np.ndarray] | None]()

        def on_preview(loops: int, pixels: np.ndarray) -> None:
            loop.call_soon_threadsafe(news.put_nowait, (loops, pixels))

        with self._submitted(wish, looks, on_preview) as ticket:
            ticket.picture.add_done_callback(lambda _: loop.call_soon_threadsafe(news.put_nowait, None))
            while (item := await news.get()) is not None:
                yield Look(await asyncio.to_thread(encode_png, item[1]), item[0])
            picture = ticket.picture.result()
        yield Png(await asyncio.to_thread(encode_png, picture.pixels), picture.version)

    @contextmanager
    def _submitted(self, wish: Wish, looks: int = 0, on_preview: Preview | None = None) -> Iterator[Ticket]:
        """An image that is drawn as long as somebody waits for it."""
        ticket = self._running().submit(wish, looks, on_preview)
        self.unfinished += 1
        try:
            yield ticket
        finally:
            ticket.abandoned = True
            self.unfinished -= 1

    async def state(self) -> State:
        thread = self._running()
        return State(thread.served.version, len(thread.active))

    def check_health(self) -> None:
        """Raises RuntimeError when the thread has ended; Serve then replaces the replica."""
        self._running()

    def _running(self) -> SamplerThread:
        if self.thread is None or not self.thread.is_alive():
            raise RuntimeError("the sampler's thread has ended")
        return self.thread


class Api:
    """HTTP."""

    def __init__(self, card: Card, config: EndpointConfig, sampler: DeploymentHandle):
        self.card, self.sampler = card, sampler
        self.rules = Rules(config.deadline, read_key(config.key_file), config.origins, config.allowed_hosts)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return make_app(self.card, Backend(self.draw, self.watch, self.state), self.rules)

    async def draw(self, wish: Wish) -> Png:
        with busy():
            response = self.sampler.draw.remote(wish)
            try:
                png = await response
            finally:
                response.cancel()
        if png is None:
            raise Busy
        return png

    async def watch(self, wish: Wish, looks: int) -> AsyncIterator[Look | Png]:
        with busy():
            item: Look | Png | None = None
            responses: Any = self.sampler.options(stream=True).watch.remote(wish, looks)
            try:
                async for item in responses:
                    yield item
            finally:
                responses.cancel()
        if item is None:
            raise Busy

    async def state(self) -> State:
        with busy():
            return await self.sampler.state.remote()


@contextmanager
def busy() -> Iterator[None]:
    """Nobody there becomes `Busy`: the same request will do later."""
    try:
        yield
    except (DeploymentUnavailableError, RayActorError) as error:
        raise Busy from error


def build(args: dict[str, Any]) -> serve.Application:
    """The application, for `serve run actors.endpoint:build NAME=VALUE...` and Serve config files.

    Raises ValueError when an argument is unknown or does not fit, or the checkpoint cannot be served.
    """
    return application(TypeAdapter(EndpointConfig).validate_python(args))


def application(config: EndpointConfig) -> serve.Application:
    student = student_of(config.checkpoint)
    model = read_config(student.parent)
    vae = config.vae or vae_beside(student)
    sampler = serve.deployment(
        name="Sampler", user_config=user_config(config.checkpoint),
        ray_actor_options={"num_cpus": config.cpus, "num_gpus": config.gpus, "runtime_env": {"env_vars": KEEP_MEMORY}},
        # The replica itself counts images and turns those beyond `queue` away, so that questions of its state never wait.
        max_ongoing_requests=4 * (config.batch + config.queue),
        autoscaling_config={
            "min_replicas": config.min_replicas, "max_replicas": config.max_replicas, "target_ongoing_requests": config.batch,
        },
        health_check_period_s=5, health_check_timeout_s=30, graceful_shutdown_timeout_s=config.deadline,
    )(Sampler)  # fmt: skip
    api = serve.deployment(name="Api", max_ongoing_requests=2048, ray_actor_options={"num_cpus": API_CPUS})(serve.ingress()(Api))
    drawing = sampler.bind(model, vae, config.batch, config.queue, config.threads, config.dtype)
    return api.bind(card_of(replace(config, checkpoint=student), model), config, drawing)


def demands(config: EndpointConfig) -> dict[str, list[dict[str, float]]]:
    """Resources that the first replicas take, by role."""
    return {"Sampler": [resources(config.cpus, config.gpus)] * config.min_replicas, "Api": [resources(API_CPUS, 0)]}


def card_of(config: EndpointConfig, model: ModelConfig) -> Card:
    """Raises ValueError when the names of the classes are unknown or `steps` is too large."""
    if config.steps > model.num_tokens:
        raise ValueError(f"steps {config.steps} is more than the {model.num_tokens} tokens of an image")
    names = names_of(config.checkpoint, model.num_classes, config.classes)
    return Card(config.name, names, model.num_tokens, config.steps, model.image_size)


def user_config(checkpoint: Path) -> dict[str, Any]:
    """Changes with the file, so that Serve notices a new student under an old name."""
    return {"checkpoint": str(checkpoint), "modified": checkpoint.stat().st_mtime_ns}


def version_of(checkpoint: Path) -> str:
    """The first 12 digits of the file's SHA-256."""
    with checkpoint.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def read_key(file: Path | None) -> str | None:
    """The API key, from `file` or the environment. Raises ValueError when it is empty."""
    key = file.read_text().strip() if file else os.environ.get(KEY_VARIABLE)
    if key is not None and not key:
        raise ValueError(f"the API key in {file or KEY_VARIABLE} is empty")
    return key
