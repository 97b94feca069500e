"""The HTTP interface without a model behind it: what it takes, what it refuses, and what every answer has."""

import asyncio
import json
from dataclasses import replace

import pytest
from api_client import BLANK, CARD, JSON, check_refused, client_of
from servers import PATH

from actors.serving.api import wants_png
from actors.serving.body import MAX_BODY, Bodies
from actors.serving.refusals import Refused

TEXTS = replace(CARD, classes=())
"""The card of a model that reads texts."""


@pytest.fixture(scope="module")
def client():
    with client_of(BLANK) as client:
        yield client


@pytest.mark.parametrize("field, value", [
    ("quality", "hd"), ("style", "vivid"), ("moderation", "low"), ("complexity", "low"), ("user", "a"), ("safety_identifier", "a"),
    ("background", "opaque"), ("output_compression", 100), ("output_format", "png"), ("size", "auto"), ("size", CARD.shape),
])  # fmt: skip
def test_what_changes_nothing_is_taken(client, field, value):
    assert client.post(PATH, json={"class": 1, field: value}).status_code == 200


def test_null_is_as_good_as_leaving_out(client):
    names = client.get("/openapi.json").json()["components"]["schemas"]["ImageRequest"]["properties"]
    assert len(names) > 15
    nothing = dict.fromkeys(names) | {"class": 1, "mask": None}
    assert len(client.post(PATH, json=nothing).json()["data"]) == 1


WRONG = [
    ({}, 400, "give prompt or class"),
    ({"prompt": "a cat"}, 400, "prompt 'a cat' names no class"),
    ({"prompt": ""}, 422, "prompt: string should have at least 1 character"),
    ({"prompt": "x" * 1001}, 422, "prompt: string should have at most 1000 characters"),
    ({"prompt": "\ud800"}, 422, "prompt: input should be a valid string"),
    ({"class": 10}, 400, "class 10 is not one of 0 to 9"),
    ({"class": -1}, 400, "class -1 is not one of 0 to 9"),
    ({"class": "cat"}, 400, "class 'cat' is unknown"),
    ({"class": "\ud800"}, 400, "class '\\ud800' is unknown"),
    ({"class": True}, 422, "class: input should be a valid integer"),
    ({"class": 1, "n": 0}, 422, "n: input should be greater than or equal to 1, got 0"),
    ({"class": 1, "n": 17}, 422, "n: input should be less than or equal to 16, got 17"),
    ({"class": 1, "n": "3"}, 422, "n: input should be a valid integer, got '3'"),
    ({"class": 1, "seed": 2**32}, 422, "seed: input should be less than 4294967296"),
    ({"class": 1, "seed": -1}, 422, "seed: input should be greater than or equal to 0"),
    ({"class": 1, "steps": 0}, 422, "steps: input should be greater than or equal to 1"),
    ({"class": 1, "steps": 65}, 422, "steps: 65 is more than the 64 tokens of an image"),
    ({"class": 1, "temperature": 2.5}, 422, "temperature: input should be less than or equal to 2"),
    ({"class": 1, "size": "512x512"}, 400, "size '512x512' cannot be had: leave it out, or ask for 28x28"),
    ({"class": 1, "model": "other"}, 404, "model 'other' is not served here; 'marval' is"),
    ({"class": 1, "response_format": "url"}, 422, "response_format: input should be 'b64_json', got 'url'"),
    ({"class": 1, "partial_images": 65}, 422, "partial_images: input should be less than or equal to 64"),
    ({"class": 1, "stream": "yes"}, 422, "stream: input should be a valid boolean"),
    ({"class": 1, "mask": "a"}, 422, "mask: no such field here; there are prompt, class, n, seed, steps"),
    ({"class": 1, "background": "transparent"}, 422, "background: input should be 'auto' or 'opaque', got 'transparent'"),
    ({"class": 1, "output_format": "jpeg"}, 422, "output_format: input should be 'png', got 'jpeg'"),
    ({"class": 1, "output_compression": 50}, 422, "output_compression: input should be 100, got 50"),
    ({"prompt": None, "class": None}, 400, "give prompt or class"),
    ([], 422, "the body must be a JSON object"),
    (None, 422, "the body must be a JSON object"),
]  # fmt: skip


@pytest.mark.parametrize("body, status, sentence", WRONG)
def test_wrong_requests_get_one_clear_sentence(client, body, status, sentence):
    check_refused(client.post(PATH, content=json.dumps(body), headers=JSON), status, sentence)


@pytest.mark.parametrize("body, status, sentence", [
    ({}, 400, "give prompt: a text that says what to draw"),
    ({"prompt": " \n"}, 400, "give prompt: a text that says what to draw"),
    ({"prompt": ""}, 422, "prompt: string should have at least 1 character"),
    ({"prompt": "x" * 1001}, 422, "prompt: string should have at most 1000 characters"),
    ({"prompt": ["a cat"]}, 422, "prompt: input should be a valid string, got ['a cat']"),
    ({"prompt": 3}, 422, "prompt: input should be a valid string, got 3"),
    ({"class": 3}, 400, "this model has no classes: say with prompt what to draw"),
    ({"prompt": "a cat", "class": "cat"}, 400, "this model has no classes: say with prompt what to draw"),
    ({"prompt": "a cat", "labels": [3]}, 422, "labels: no such field here; there are prompt, n, seed, steps"),
])  # fmt: skip
def test_a_model_that_reads_texts_refuses_classes_and_wants_a_prompt(body, status, sentence):
    with client_of(BLANK, TEXTS) as client:
        check_refused(client.post(PATH, json=body), status, sentence)


def test_any_prompt_is_taken_by_a_model_that_reads_texts():
    with client_of(BLANK, TEXTS) as client:
        answer = client.post(PATH, json={"prompt": "ein Kätzchen 🐈", "class": None}).json()
        assert len(answer["data"]) == 1 and "class" not in answer and client.get("/v1/models/marval").json()["classes"] == []


@pytest.mark.parametrize("raw, status, sentence", [
    (b"{", 400, "the body is not JSON"),
    (b'{"class": "\xff"}', 400, "the body is not JSON: it is not UTF-8 at byte 11"),
    (b"", 422, "the body must be a JSON object"),
    (b'{"class":1,"temperature":NaN}', 400, "the body is not JSON: NaN is no number there"),
    (b'{"class":1,"temperature":1e999}', 422, "temperature: input should be a finite number"),
    (b'{"class":1,"n":1,"n":2}', 400, "the body names 'n' more than once"),
    (b'{"class":' + b"1" * 5000 + b"}", 400, "the body has an integer of thousands of digits"),
    (b"[" * 10_000, 400, "the body is JSON that is nested too deeply"),
    (b'{"prompt":' + b"[" * 900 + b"]" * 900 + b"}", 422, "prompt: input should be a valid string"),
    (b"x" * (MAX_BODY + 1), 413, "longer than 65536 bytes"),
])  # fmt: skip
def test_what_is_no_json_or_too_long_is_turned_away(client, raw, status, sentence):
    check_refused(client.post(PATH, content=raw, headers=JSON), status, sentence)


def test_a_long_body_of_unknown_length_is_turned_away(client):
    parts = (b" " * 1024 for _ in range(1024))
    check_refused(client.post(PATH, content=parts, headers=JSON), 413, "longer than")


@pytest.mark.parametrize("mark, encoding", [(b"", "utf-8"), (b"\xef\xbb\xbf", "utf-8"), (b"", "utf-16")])
def test_encodings_that_json_may_have_are_read(client, mark, encoding):
    assert client.post(PATH, content=mark + '{"class": 1}'.encode(encoding), headers=JSON).status_code == 200


def test_a_png_holds_one_image(client):
    answer = client.post(PATH, json={"class": 1, "n": 2}, headers={"accept": "image/png"})
    check_refused(answer, 406, "n is 2")


def test_unknown_paths_and_methods(client):
    check_refused(client.get("/v1/nothing"), 404, "/v1/nothing: Not Found")
    check_refused(client.get(PATH), 405, "Method Not Allowed")


def test_a_key_is_asked_for_when_there_is_one():
    with client_of(BLANK, key="secret") as client:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic secret"}, {"authorization": b"Bearer \xe9"}):
            check_refused(client.post(PATH, json={"class": 1}, headers=headers), 401, "API key")
            assert client.get("/v1/models/marval", headers=headers).headers["www-authenticate"] == "Bearer"
        check_refused(client.get("/v1/models"), 401, "API key")
        right = {"authorization": "Bearer secret"}
        assert client.post(PATH, json={"class": 1, "steps": 1}, headers=right).status_code == 200
        assert client.get("/healthz").status_code == client.get("/").status_code == 200


def test_no_cors_unless_asked_for(client):
    request = {"headers": {"origin": "https://example.org"}}
    assert "access-control-allow-origin" not in client.get("/healthz", **request).headers
    with client_of(BLANK, origins=("https://example.org",)) as open_client:
        assert open_client.get("/healthz", **request).headers["access-control-allow-origin"] == "https://example.org"


def test_the_key_comes_before_the_body():
    def never_read():
        raise AssertionError("it was read")
        yield b""

    with client_of(BLANK, key="secret") as client:
        check_refused(client.post(PATH, content=never_read(), headers=JSON), 401, "API key")


def test_a_model_is_described_by_its_name(client):
    (listed,) = client.get("/v1/models").json()["data"]
    assert client.get("/v1/models/marval").json() == listed
    check_refused(client.get("/v1/models/some/other"), 404, "model 'some/other' is not served here; 'marval' is")


def test_what_openai_has_and_this_has_not_is_refused_with_what_there_is(client):
    for path in ("/v1/images/edits", "/v1/images/variations", "/v1/chat/completions"):
        check_refused(client.post(path, files={"image": b"x" * 2 * MAX_BODY}), 404, "there are GET /healthz, GET /v1/models")


@pytest.mark.parametrize("accept, png", [
    ("image/png", True), ("*/*", False), ("application/json", False), ("image/*", True), ("IMAGE/PNG; Q=0.5", True),
    ("image/png;q=0", False), ("image/png; q=0.0, */*", False), ("image/png;q=0.4, application/json;q=0.5", False),
    ("image/avif,image/webp,image/*,*/*;q=0.8", True), ("application/json, image/png;q=0.9", False), ("", False),
])  # fmt: skip
def test_png_is_for_those_who_like_it_best(accept, png):
    assert wants_png(accept) == png


def test_every_answer_has_the_headers_that_browsers_heed(client):
    for answer in (client.get("/"), client.get("/docs"), client.get("/v1/nothing"), client.post(PATH, content=b"{", headers=JSON)):
        assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["referrer-policy"] == "no-referrer"
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; ") and "frame-ancestors 'none'" in policy and "unsafe" not in policy


def test_an_answer_before_the_end_of_the_body_ends_the_connection(client):
    assert client.post("/v1/nothing", content=b"{").headers["connection"] == "close"
    assert "connection" not in client.post(PATH, json={"class": 1}).headers
    assert "connection" not in client.get("/").headers


def test_head_is_get_without_the_body(client):
    for path in ("/", "/healthz", "/docs", "/v1/models"):
        head, get = client.head(path), client.get(path)
        assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", get.headers["content-length"])
    assert client.head(PATH).status_code == 405


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:1", "[::1]:8000", "[::1]", "10.0.0.1", "a.example.org", "Here"])
def test_hosts_that_are_served(host):
    with client_of(BLANK, allowed_hosts=("*.example.org", "here")) as client:
        assert client.get("/healthz", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.com", "evil.com:8000", "localhost.evil.com", "127.0.0.1.evil.com", "localhost@evil.com", "example.org"]
)
def test_hosts_that_are_not(host):
    with client_of(BLANK, allowed_hosts=("*.example.org", "here")) as client:
        check_refused(client.get("/", headers={"host": host}), 421, f"host '{host}' is not served here; --allowed-hosts")


def test_any_host_when_the_operator_says_so():
    with client_of(BLANK, allowed_hosts=("*",)) as client:
        assert client.get("/", headers={"host": "anything"}).status_code == 200


async def endless():
    yield b"{"
    await asyncio.sleep(60)


def test_a_body_that_does_not_end_is_given_up():
    with pytest.raises(Refused, match="the body did not end within 0.01 seconds"):
        asyncio.run(Bodies(0.01, 2).read(endless()))


def test_whoever_sends_at_once_is_served_however_many_never_end():
    async def whole():
        yield b"{}"

    async def crowd():
        bodies = Bodies(30, 4)
        stuck = [asyncio.create_task(bodies.read(endless())) for _ in range(50)]
        await asyncio.sleep(0.01)
        served = [await bodies.read(whole()) for _ in range(10)]
        gone = [task.exception().status_code for task in stuck if task.done()]
        for task in stuck:
            task.cancel()
        return served, gone, len(bodies.open)

    served, gone, still_open = asyncio.run(crowd())
    assert served == [b"{}"] * 10 and still_open <= 4
    assert gone == [408] * len(gone) and len(gone) >= 46
