"""The HTTP interface on the real sampler, without Ray."""

import asyncio
import base64
import json
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from api_client import BLANK, CONFIG, backend_of, check_refused, client_of, pixels, serving, wait_for_idle
from servers import PATH

from actors.serving.api import PartialImage
from actors.serving.refusals import Busy


@pytest.fixture(scope="module")
def sampler():
    with serving(CONFIG) as sampler:
        yield sampler


@pytest.fixture(scope="module")
def client(sampler):
    with client_of(backend_of(sampler)) as client:
        yield client


def images(answer) -> list[np.ndarray]:
    assert answer.status_code == 200, answer.text
    return [pixels(base64.b64decode(entry["b64_json"])) for entry in answer.json()["data"]]


def test_answers_carry_images_their_seeds_and_the_version(client):
    answer = client.post(PATH, json={"prompt": "Two ankle boots on a table", "n": 2, "seed": 2**32 - 1, "steps": 4})
    assert [image.shape for image in images(answer)] == [(28, 28)] * 2
    body = answer.json()
    assert [entry["seed"] for entry in body["data"]] == [2**32 - 1, 0]
    assert (body["class"], body["steps"]) == ("ankle boot", 4)
    assert body["model_version"] == answer.headers["x-model-version"] == client.get("/healthz").json()["model_version"]
    (model,) = client.get("/v1/models").json()["data"]
    assert model["id"] == "marval" and model["classes"][9] == "ankle boot" and model["max_steps"] == 64


def test_one_image_may_come_as_png(client):
    request = {"class": "sneaker", "seed": 4, "steps": 4}
    answer = client.post(PATH, json=request, headers={"accept": "image/png"})
    assert answer.headers["content-type"] == "image/png" and answer.headers["x-seed"] == "4"
    assert (pixels(answer.content) == images(client.post(PATH, json=request))[0]).all()


def test_an_image_depends_on_its_own_seed_alone(client):
    """Alone, and among seven others of other classes, seeds and numbers of loops, that come a little later."""
    requests = [{"class": k, "seed": 100 + k, "steps": steps} for k, steps in enumerate((64, 16, 1, 8, 33, 4, 64, 2))]
    alone = [images(client.post(PATH, json=request))[0] for request in requests]
    together: dict[int, np.ndarray] = {}

    def ask(k: int) -> None:
        time.sleep(0.01 * k)
        together[k] = images(client.post(PATH, json=requests[k]))[0]

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k in range(8):
        assert abs(alone[k] - together[k]).max() <= 1
    first, second = images(client.post(PATH, json={"class": 0, "seed": 100, "steps": 64, "n": 2}))
    assert abs(first - alone[0]).max() <= 1 and (first != second).any()


def test_the_same_request_twice_gives_the_same_bytes(client):
    request = {"class": 3, "n": 4, "seed": 9, "steps": 8}
    first, second = (client.post(PATH, json=request).json()["data"] for _ in range(2))
    assert first == second


def test_loops_class_seed_and_temperature_change_the_image(client):
    base = {"class": 3, "seed": 9, "steps": 8}
    (usual,) = images(client.post(PATH, json=base))
    for change in ({"class": 4}, {"seed": 10}, {"steps": 16}, {"temperature": 0.5}):
        (other,) = images(client.post(PATH, json=base | change))
        assert (usual != other).any(), change


def events(text: str) -> list[dict]:
    pieces = [piece.split("\ndata: ") for piece in text.strip().split("\n\n")]
    data = [json.loads(content) for _, content in pieces]
    assert [kind.removeprefix("event: ") for kind, _ in pieces] == [entry["type"] for entry in data]
    return data


def test_a_stream_shows_images_on_their_way(client):
    request = {"class": 5, "n": 2, "seed": 1, "steps": 8}
    answer = client.post(PATH, json=request | {"stream": True, "partial_images": 3})
    assert answer.headers["content-type"].startswith("text/event-stream")
    for index, final in enumerate(images(client.post(PATH, json=request))):
        own = [entry for entry in events(answer.text) if entry["index"] == index]
        assert [entry.get("loops") for entry in own] == [2, 4, 6, None]
        assert [entry.get("partial_image_index") for entry in own] == [0, 1, 2, None]
        shown = [pixels(base64.b64decode(entry["b64_json"])) for entry in own]
        assert abs(shown[-1] - final).max() <= 1
        distances = [abs(image - final).mean() for image in shown]
        assert distances == sorted(distances, reverse=True) and distances[0] > 10


def test_a_request_beyond_its_deadline_ends(sampler):
    with client_of(backend_of(sampler), deadline=0.05) as client:
        check_refused(client.post(PATH, json={"class": 1, "n": 16, "steps": 64}), 504, "not done within 0.05 seconds")
        body = {"class": 1, "n": 16, "steps": 64, "stream": True}
        check_refused(client.post(PATH, json=body), 504, "not done within 0.05 seconds")
    wait_for_idle(sampler)


def test_a_stream_beyond_its_deadline_ends_with_an_error():
    async def stuck(*_):
        yield PartialImage(b"", 1)
        await asyncio.sleep(60)

    with client_of(replace(BLANK, watch=stuck), deadline=0.5) as client:
        first, last = events(client.post(PATH, json={"class": 1, "stream": True}).text)
    assert first["loops"] == 1
    assert last["error"]["code"] == "504"


def test_busy_servers_say_when_to_come_back(sampler):
    async def nobody(*_):
        raise Busy

    async def nothing(*_):
        raise Busy
        yield

    with client_of(replace(BLANK, draw=nobody, watch=nothing)) as client:
        for body in ({"class": 1}, {"class": 1, "n": 3}, {"class": 1, "stream": True}):
            answer = client.post(PATH, json=body)
            check_refused(answer, 503, "too many requests are waiting")
            assert answer.headers["retry-after"] == "1"
