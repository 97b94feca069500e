"""What clients hear when nobody is behind Ray Serve's proxy: it has words of its own then, and this gives them the API's shape."""

import json
from typing import Any

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from actors.api_errors import error

GONE = (503, "nobody can answer just now, as a part of this server starts, ends or was lost: come back in a second")
OWN_ROUTES = "/-/"
"""Of Serve."""


def middlewares() -> list[Middleware]:
    """For Serve's proxy, which calls what RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names."""
    return [Middleware(Front)]


class Front:
    """Answers 503 with Retry-After where the proxy says nothing, after the loss of an `Api`, or something in plain text."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(OWN_ROUTES):
            await self.app(scope, receive, send)
            return
        answer = Answer(send)
        await self.app(scope, receive, answer.send)
        if not answer.finished:
            await answer.end()


class Answer:
    """One answer on its way to the client."""

    def __init__(self, send: Send):
        self._send = send
        self.begun: Message | None = None
        self.hidden = self.finished = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.hidden = is_of_proxy(message)
            if self.hidden:
                return
            self.begun = message
        if not self.hidden:
            await self._send(message)
            self.finished = message["type"] == "http.response.body" and not message.get("more_body", False)

    async def end(self) -> None:
        """Say that nobody is there: as an answer of its own, as the last event of a stream; anything else breaks off."""
        if self.begun is None:
            await self._send({"type": "http.response.start", "status": GONE[0], "headers": HEADERS})
            await self._send({"type": "http.response.body", "body": json.dumps(error(*GONE)).encode()})
        elif media_type(self.begun).startswith("text/event-stream"):
            await self._send({"type": "http.response.body", "body": event(error(*GONE))})


HEADERS = [(b"content-type", b"application/json"), (b"retry-after", b"1")]


def is_of_proxy(start: Message) -> bool:
    """Whether Serve's proxy speaks and not the application, whose errors are JSON."""
    return start["status"] in (404, 408, 500, 503) and not media_type(start).startswith("application/json")


def media_type(start: Message) -> str:
    return next((value.decode("latin-1") for name, value in start.get("headers", ()) if name.lower() == b"content-type"), "")


def event(problem: dict[str, Any]) -> bytes:
    return f"event: error\ndata: {json.dumps({'type': 'error'} | problem)}\n\n".encode()
