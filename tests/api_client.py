"""Clients of the HTTP interface in this process, with any backend behind it."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from fastapi.testclient import TestClient

from actors.serving.api import Backend, Png, Rules, State, make_app
from actors.serving.endpoint import card_of
from actors.serving.endpoint_config import EndpointConfig
from marval_ray.families.mar.batching import Wish
from marval_ray.hub.layout import read_config

CONFIG = EndpointConfig(threads=1)
MODEL = read_config(CONFIG.checkpoint.parent)
CARD = card_of(CONFIG, MODEL)
JSON = {"content-type": "application/json"}


@contextmanager
def client_of(backend: Backend, **rules) -> Iterator[TestClient]:
    with TestClient(make_app(CARD, backend, Rules(**rules)), base_url="http://localhost") as client:
        yield client


async def draw_nothing(_: Wish) -> Png:
    return Png(b"no picture", "0")


async def idle() -> State:
    return State("0", 0)


async def watch_nothing(wish: Wish, _: int):
    yield await draw_nothing(wish)


BLANK = Backend(draw_nothing, watch_nothing, idle)
"""For what does not depend on the pictures."""


def check_refused(answer: httpx.Response, status: int, sentence: str) -> None:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert sentence in error["message"] and "\n" not in error["message"]
