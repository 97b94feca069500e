"""Errors of the HTTP interface, each as one sentence in the shape that OpenAI's clients read."""

import reprlib
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteException


class Busy(Exception):
    """Nobody can take the request now."""


class Refused(HTTPException):
    """A request that cannot be answered: status, one sentence, and the field that it is about."""

    def __init__(self, status: int, sentence: str, field: str | None = None, headers: dict[str, str] | None = None):
        super().__init__(status, sentence, headers)
        self.field = field


BUSY = (503, "too many requests are waiting: come back in a second")


def error(status: int, sentence: str, field: str | None = None) -> dict[str, Any]:
    """Put an error in the shape that OpenAI's clients read."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": sentence, "type": kind, "param": field, "code": str(status)}}


def add_errors(app: FastAPI, fields: str) -> None:
    """Give all errors of `app` their shape. fields: those that a body may have."""

    @app.exception_handler(Refused)
    async def refused(_: Request, reason: Refused) -> JSONResponse:
        return JSONResponse(error(reason.status_code, reason.detail, reason.field), reason.status_code, reason.headers)

    @app.exception_handler(Busy)
    async def busy(_: Request, reason: Busy) -> JSONResponse:
        return JSONResponse(error(*BUSY), BUSY[0], {"Retry-After": "1"})

    @app.exception_handler(StarletteException)
    async def http(request: Request, reason: StarletteException) -> JSONResponse:
        there = "; there are " + paths_of(app) if reason.status_code in (404, 405) else ""
        sentence = f"{request.method} {ascii(request.url.path[:200])[1:-1]}: {reason.detail}{there}"
        return JSONResponse(error(reason.status_code, sentence), reason.status_code, reason.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, reason: RequestValidationError) -> JSONResponse:
        status, sentence, field = explain(reason.errors()[0], fields)
        return JSONResponse(error(status, sentence, field), status)


def paths_of(app: FastAPI) -> str:
    """Say what can be asked for."""
    return ", ".join(f"{method.upper()} {path}" for path, methods in app.openapi()["paths"].items() for method in methods)


def explain(problem: dict[str, Any], fields: str) -> tuple[int, str, str | None]:
    """Return (status, sentence, field) of pydantic's first complaint."""
    where = [str(part)[:80] for part in problem["loc"][1:]]
    if not where or not isinstance(problem.get("loc", [None])[0], str):
        return 422, "the body must be a JSON object with content-type application/json", None
    sentence = f"{where[0]}: {problem['msg'][0].lower()}{problem['msg'][1:]}"
    if problem["type"] == "extra_forbidden":
        return 422, ascii(f"{where[0]}: no such field here; there are {fields}")[1:-1], where[0]
    if problem["type"] == "missing":
        return 422, ascii(sentence)[1:-1], where[0]
    return 422, ascii(f"{sentence}, got {reprlib.repr(problem['input']):.80}")[1:-1], where[0]
