"""The HTTP interface on the real sampler, without Ray."""

import asyncio
import base64
import io
import json
import os
import shutil
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from api_client import CONFIG, MODEL, check_refused, client_of
from PIL import Image
from servers import PATH
from small import wish

from actors.serving.api import Backend, PartialImage
from actors.serving.endpoint import application, build, card_of, user_config
from actors.serving.endpoint_config import EndpointConfig, read_key
from actors.serving.refusals import Busy
from actors.serving.sampler_replica import Sampler
from marval_ray.class_names import find_class
from marval_ray.files.fit import save_weights
from marval_ray.files.tensors import read_state
from marval_ray.hub.layout import codec_beside, save_model
from marval_ray.runs.students import student_of


def sampler_of(config: EndpointConfig) -> Sampler:
    return Sampler(config, MODEL, codec_beside(config.checkpoint))


@pytest.fixture(scope="module")
def sampler():
    sampler = sampler_of(CONFIG)
    asyncio.run(sampler.reconfigure(user_config(CONFIG.checkpoint)))
    yield sampler
    sampler.thread.close()


def backend(sampler) -> Backend:
    return Backend(sampler.draw, sampler.watch, sampler.state)


@pytest.fixture(scope="module")
def client(sampler):
    with client_of(backend(sampler)) as client:
        yield client


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content))).astype(int)


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
    with client_of(backend(sampler), deadline=0.05) as client:
        check_refused(client.post(PATH, json={"class": 1, "n": 16, "steps": 64}), 504, "not done within 0.05 seconds")
        body = {"class": 1, "n": 16, "steps": 64, "stream": True}
        check_refused(client.post(PATH, json=body), 504, "not done within 0.05 seconds")
    wait_for_idle(sampler)


def test_a_stream_beyond_its_deadline_ends_with_an_error():
    async def stuck(*_):
        yield PartialImage(b"", 1)
        await asyncio.sleep(60)

    with client_of(Backend(stuck, stuck, stuck), deadline=0.5) as client:
        first, last = events(client.post(PATH, json={"class": 1, "stream": True}).text)
    assert first["loops"] == 1
    assert last["error"]["code"] == "504"


def wait_for_idle(sampler) -> None:
    """Nothing is drawn for nobody: much faster than the images would take."""
    end = time.monotonic() + 5
    while sampler.thread.active:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_busy_servers_say_when_to_come_back(sampler):
    async def nobody(*_):
        raise Busy

    async def nothing(*_):
        raise Busy
        yield

    with client_of(Backend(nobody, nothing, nobody)) as client:
        for body in ({"class": 1}, {"class": 1, "n": 3}, {"class": 1, "stream": True}):
            answer = client.post(PATH, json=body)
            check_refused(answer, 503, "too many requests are waiting")
            assert answer.headers["retry-after"] == "1"


def test_an_image_that_nobody_waits_for_is_not_drawn_on(sampler):
    async def give_up():
        task = asyncio.create_task(sampler.draw(wish(1, 1, loops=64)))
        while not sampler.thread.active:
            await asyncio.sleep(0.001)
        task.cancel()

    asyncio.run(give_up())
    wait_for_idle(sampler)


def test_whoever_stops_waiting_does_not_stop_the_sampler(sampler):
    """asyncio cancels the future that it waits for; the sampler still ends it, and goes on."""
    ticket = sampler.thread.submit(wish(1, 1, loops=4))
    assert not ticket.picture.cancel()
    assert ticket.picture.result(timeout=30).pixels.shape == (28, 28, 1)
    for delay in (0.02 * k for k in range(12)):  # some of them end in the very loop that is the image's last
        with pytest.raises(TimeoutError):
            asyncio.run(asyncio.wait_for(sampler.draw(wish(1, 1, loops=64)), delay / 10 + 0.001))
    assert asyncio.run(sampler.draw(wish(1, 1, loops=4))).version


def test_a_new_student_takes_over_between_images(sampler, tmp_path):
    """Images that are under way end with the student that they began with."""
    state = {name: value * 1.05 for name, value in read_state(CONFIG.checkpoint).items()}
    shutil.copy(CONFIG.checkpoint.parent / "config.json", tmp_path)
    save_weights(tmp_path / "student.safetensors", state, next(iter(state.values())).dtype)

    async def swap():
        before = asyncio.create_task(sampler.draw(wish(1, 1, loops=64)))
        while not sampler.thread.active:
            await asyncio.sleep(0.001)
        await sampler.reconfigure(user_config(tmp_path / "student.safetensors"))
        after = asyncio.create_task(sampler.draw(wish(1, 1, loops=64)))
        return await before, await after

    try:
        first = asyncio.run(sampler.draw(wish(1, 1, loops=64)))
        before, after = asyncio.run(swap())
    finally:
        asyncio.run(sampler.reconfigure(user_config(CONFIG.checkpoint)))
    assert before.version == first.version != after.version
    assert abs(pixels(before.content) - pixels(first.content)).max() <= 1
    assert (pixels(after.content) != pixels(first.content)).any()


def test_a_dead_thread_is_unhealthy_and_leaves_nobody_waiting():
    sampler = sampler_of(replace(CONFIG, batch=2, queue=4))
    asyncio.run(sampler.reconfigure(user_config(CONFIG.checkpoint)))
    tickets = [sampler.thread.submit(wish(0, seed)) for seed in range(4)]
    sampler.thread.close()
    for ticket in [*tickets, sampler.thread.submit(wish(0, 9))]:
        with pytest.raises(RuntimeError, match="has ended"):
            ticket.picture.result(timeout=10)
    with pytest.raises(RuntimeError, match="has ended"):
        sampler.check_health()


def test_beyond_the_queue_nothing_is_drawn():
    async def crowd(sampler: Sampler) -> tuple[list, list]:
        await sampler.reconfigure(user_config(CONFIG.checkpoint))
        drawn = await asyncio.gather(*(sampler.draw(wish(1, seed, loops=64)) for seed in range(10)))
        return drawn, [item async for item in sampler.watch(wish(1, 1, loops=4), 1)]

    sampler = sampler_of(replace(CONFIG, batch=2, queue=4))
    drawn, watched = asyncio.run(crowd(sampler))
    sampler.thread.close()
    assert [png is None for png in drawn] == [False] * 6 + [True] * 4
    assert len(watched) == 2


def test_of_a_run_the_newest_student_that_can_be_read_is_served(tmp_path):
    for name, age in (("student", 0), ("student-gsim", 100)):
        save_model(tmp_path, name, read_state(CONFIG.checkpoint), MODEL, torch.float32)
        os.utime(tmp_path / f"{name}.safetensors", (time.time() - age,) * 2)
    assert student_of(tmp_path).name == "student.safetensors"
    (tmp_path / "student.safetensors").write_bytes(b"half of a file")
    assert student_of(tmp_path).name == "student-gsim.safetensors"
    (tmp_path / "student-gsim.safetensors").unlink()
    with pytest.raises(ValueError, match="has no student that can be read"):
        student_of(tmp_path)


def test_prompts_find_the_longest_name():
    names = ["shirt", "t-shirt", "boot", "ankle boot", "dress"]
    for text, label in {"a T-shirt": 1, "SHIRTS!": 0, "an ankle boot, a dress": 3, "two dresses": 4, "dressed": None, "": None}.items():
        assert find_class(text, names) == label, text


def test_arguments_of_a_config_file_are_checked(tmp_path):
    for args, sentence in [
        ({"stepz": 3}, "stepz"), ({"steps": 65}, "more than the 64 tokens"), ({"batch": 0}, "batch must be more than 0"),
        ({"max_replicas": 0}, "max_replicas 0 is less"), ({"checkpoint": str(tmp_path / "none")}, "config.json is missing"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=sentence):
            build(args)


def test_the_key_comes_from_a_file_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("MARVAL_API_KEY", raising=False)
    assert read_key(None) is None
    monkeypatch.setenv("MARVAL_API_KEY", "from-environment")
    assert read_key(None) == "from-environment"
    for content in (b"from-file", b"from-file\n", b"from-file\r\n", b"\xef\xbb\xbffrom-file\n"):
        (tmp_path / "key").write_bytes(content)
        assert read_key(tmp_path / "key") == "from-file"


@pytest.mark.parametrize("content, sentence", [
    (b"", "is empty"), (b"\n", "is empty"), (b" \t\n", "is empty"), (b"one\ntwo\n", "must be one line of ASCII"),
    ("schlüssel".encode(), "must be one line of ASCII"), (b"two words", "must be one line of ASCII"),
    (b"nul\0", "must be one line of ASCII"),
    (b"\xff\xfek\0", "cannot be read as a line of text"),
])  # fmt: skip
def test_keys_that_no_header_can_carry_are_refused(tmp_path, monkeypatch, content, sentence):
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        application(EndpointConfig(key_file=tmp_path / "key"))
    if b"\0" not in content:
        monkeypatch.setenv("MARVAL_API_KEY", content.decode())
        with pytest.raises(ValueError, match=f"MARVAL_API_KEY {sentence}"):
            application(EndpointConfig())


def test_key_files_that_are_none_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(ValueError, match=f"--key-file {path} cannot be read"):
            application(EndpointConfig(key_file=path))


def test_names_of_classes_from_a_file(tmp_path):
    (tmp_path / "names.txt").write_text("\n".join("abcdefghij"), encoding="utf-8")
    assert card_of(replace(CONFIG, classes=tmp_path / "names.txt"), MODEL).classes == tuple("abcdefghij")
