"""What Ray Serve's proxy answers when `Api` does not."""

from dataclasses import replace

import pytest
from api_client import BLANK, CARD, check_refused
from fastapi.responses import PlainTextResponse
from fastapi.testclient import TestClient
from starlette.types import ASGIApp

from actors.serving.api import Rules, State, make_app
from actors.serving.proxy import middlewares


def through_proxy(app: ASGIApp) -> TestClient:
    for middleware in middlewares():
        app = middleware.cls(app, *middleware.args, **middleware.kwargs)
    return TestClient(app, base_url="http://localhost", raise_server_exceptions=False)


async def lost(scope, receive, send) -> None:
    """Serve's proxy when a process that it had asked is gone."""


@pytest.mark.parametrize("app", [lost, PlainTextResponse("Path not found", 404), PlainTextResponse("Internal Server Error", 500)])
def test_what_serve_itself_answers_becomes_come_back_later(app):
    answer = through_proxy(app).get("/v1/models")
    check_refused(answer, 503, "come back in a second")
    assert answer.headers["retry-after"] == "1"


def test_what_the_api_answers_stays():
    client = through_proxy(make_app(CARD, BLANK, Rules(key="secret")))
    for path, status in (("/", 200), ("/healthz", 200), ("/nothing", 404), ("/v1/models", 401)):
        assert client.get(path).status_code == status
    assert client.get("/healthz", headers={"traceparent": b"\xff"}).status_code == 200


def test_a_fault_of_the_program_is_not_hidden():
    async def broken() -> State:
        raise RuntimeError("a fault")

    app = make_app(CARD, replace(BLANK, state=broken), Rules())
    check_refused(through_proxy(app).get("/healthz"), 500, "the server failed at this request")


def test_serves_own_paths_stay():
    assert through_proxy(PlainTextResponse("draining", 503)).get("/-/healthz").text == "draining"
