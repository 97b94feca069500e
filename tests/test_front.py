"""What clients hear when Ray Serve's proxy has nobody to ask. The proxies here answer as Serve's does then."""

import pytest
from fastapi.testclient import TestClient
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from actors.front import Front


async def says_nothing(*_: object) -> None:
    """As after the loss of a replica: uvicorn would make 500 of it."""


async def breaks_off(scope, receive, send) -> None:
    headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"data: {}\n\n", "more_body": True})


@pytest.mark.parametrize("proxy", [
    says_nothing, PlainTextResponse("Path '/' not found.", 404), PlainTextResponse("Application is unavailable.", 503),
    PlainTextResponse("Internal Server Error", 500), PlainTextResponse("Request timed out.", 408),
])  # fmt: skip
def test_nobody_there_is_503_with_retry_after(proxy):
    answer = TestClient(Front(proxy)).get("/v1/models")
    assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
    assert "come back" in answer.json()["error"]["message"]


def test_a_stream_that_breaks_off_ends_with_an_error():
    answer = TestClient(Front(breaks_off)).get("/")
    assert answer.status_code == 200
    assert answer.text.startswith('data: {}\n\nevent: error\ndata: {"type": "error"') and "come back" in answer.text


def stream() -> StreamingResponse:
    return StreamingResponse(iter([b"one", b"two"]), media_type="text/event-stream")


@pytest.mark.parametrize("response", [
    JSONResponse({"error": {}}, 404), JSONResponse({}, 503), Response(b"png", media_type="image/png"), PlainTextResponse("ok"), stream(),
    Response(status_code=304),
])  # fmt: skip
def test_what_the_application_says_goes_through(response):
    async def endpoint(_: Request) -> Response:
        return response

    app = Starlette(routes=[Route("/", endpoint)])
    answer = TestClient(Front(app)).get("/")
    assert answer.status_code == response.status_code and "retry-after" not in answer.headers
    assert answer.content == (b"onetwo" if isinstance(response, StreamingResponse) else response.body)


def test_routes_of_serve_itself_are_left_alone():
    assert TestClient(Front(PlainTextResponse("Not ready.", 503))).get("/-/healthz").text == "Not ready."
