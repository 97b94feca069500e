"""Clients of the HTTP interface in this process, with any backend behind it, and the real sampler without Ray."""

import asyncio
import io
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import numpy as np
from fastapi.testclient import TestClient
from PIL import Image

from actors.serving.api import Backend, Png, Rules, State, make_app
from actors.serving.endpoint import card_of, user_config
from actors.serving.endpoint_config import EndpointConfig
from actors.serving.image_request import ModelCard
from actors.serving.sampler_replica import Sampler
from marval_ray.families.base import FamilyConfig, Wish
from marval_ray.hub.layout import read_config

CONFIG = EndpointConfig(threads=1)
MODEL = read_config(CONFIG.checkpoint.parent)
CARD = card_of(CONFIG, MODEL)
JSON = {"content-type": "application/json"}


@contextmanager
def client_of(backend: Backend, card: ModelCard = CARD, **rules) -> Iterator[TestClient]:
    with TestClient(make_app(card, backend, Rules(**rules)), base_url="http://localhost") as client:
        yield client


async def draw_nothing(_: Wish) -> Png:
    return Png(b"no picture", "0")


async def idle() -> State:
    return State("0", 0)


async def read_all(_: str) -> str:
    return ""


async def watch_nothing(wish: Wish, _: int):
    yield await draw_nothing(wish)


BLANK = Backend(draw_nothing, watch_nothing, idle, read_all)
"""For what does not depend on the pictures."""


def check_refused(answer: httpx.Response, status: int, sentence: str) -> None:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert sentence in error["message"] and "\n" not in error["message"]


def sampler_of(config: EndpointConfig, model: FamilyConfig = MODEL) -> Sampler:
    """A replica without a student."""
    return Sampler(config, model)


@contextmanager
def serving(config: EndpointConfig, model: FamilyConfig = MODEL) -> Iterator[Sampler]:
    """A replica that draws, by default with the embedded student."""
    sampler = sampler_of(config, model)
    asyncio.run(sampler.reconfigure(user_config(config.checkpoint)))
    yield sampler
    sampler.thread.close()


def backend_of(sampler: Sampler) -> Backend:
    return Backend(sampler.draw, sampler.watch, sampler.state, sampler.unread)


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content))).astype(int)


def wait_for_idle(sampler: Sampler) -> None:
    """Nothing is drawn for nobody: much faster than the images would take."""
    end = time.monotonic() + 5
    while sampler.thread.active:
        assert time.monotonic() < end
        time.sleep(0.01)
