"""Errors of the HTTP interface, each as one sentence in the shape that OpenAI's clients read."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 64 * 1024
"""Bytes; the longest request that is allowed has about 5,000."""


class Busy(Exception):
    """Nobody can take the request now."""


class Refused(Exception):
    """A request that cannot be answered: status, one sentence, and the field that it is about."""

    def __init__(self, status: int, sentence: str, field: str | None = None):
        super().__init__(sentence)
        self.status, self.field = status, field


BUSY = (503, "too many requests are waiting: come back in a second")


def error(status: int, sentence: str, field: str | None = None) -> dict[str, Any]:
    """In the shape that OpenAI's clients read."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": sentence, "type": kind, "param": field, "code": str(status)}}


def add_errors(app: FastAPI) -> None:
    @app.exception_handler(Refused)
    async def refused(_: Request, reason: Refused) -> JSONResponse:
        return JSONResponse(error(reason.status, str(reason), reason.field), reason.status)

    @app.exception_handler(Busy)
    async def busy(_: Request, reason: Busy) -> JSONResponse:
        return JSONResponse(error(*BUSY), BUSY[0], {"Retry-After": "1"})

    @app.exception_handler(HTTPException)
    async def http(request: Request, reason: HTTPException) -> JSONResponse:
        sentence = f"{request.method} {ascii(request.url.path)[1:-1]}: {reason.detail}"
        return JSONResponse(error(reason.status_code, sentence), reason.status_code, reason.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, reason: RequestValidationError) -> JSONResponse:
        status, sentence, field = explain(reason.errors()[0])
        return JSONResponse(error(status, sentence, field), status)


def explain(problem: dict[str, Any]) -> tuple[int, str, str | None]:
    """(status, sentence, field) of pydantic's first complaint."""
    where = [str(part) for part in problem["loc"][1:]]
    if problem["type"] == "json_invalid":
        return 400, f"the body is not JSON: {problem['ctx']['error']}", None
    if not where or not isinstance(problem.get("loc", [None])[0], str):
        return 422, "the body must be a JSON object with content-type application/json", None
    sentence = f"{where[0]}: {problem['msg'][0].lower()}{problem['msg'][1:]}"
    if problem["type"] in ("missing", "extra_forbidden"):
        return 422, ascii(sentence)[1:-1], where[0]
    return 422, ascii(f"{sentence}, got {problem['input']!r:.80}")[1:-1], where[0]


class LimitedBody:
    """Turns bodies beyond MAX_BODY bytes away, before anything parses them."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        content, more = b"", True
        while more and len(content) <= MAX_BODY:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            content, more = content + message.get("body", b""), message.get("more_body", False)
        if len(content) > MAX_BODY:
            sentence = f"the body is longer than {MAX_BODY} bytes"
            return await JSONResponse(error(413, sentence), 413)(scope, receive, send)
        parts: list[Message] = [{"type": "http.request", "body": content, "more_body": False}]

        async def again() -> Message:
            return parts.pop() if parts else await receive()

        await self.app(scope, again, send)
