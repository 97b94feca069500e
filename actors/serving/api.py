"""The HTTP interface, without Ray: routes in the shape of OpenAI's Images API, errors as one sentence each."""

import asyncio
import base64
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Header, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline

from actors.serving.body import BODY_SECONDS, OPEN_BODIES, Bodies, guarded_by
from actors.serving.border import Head, Hosts, SafeHeaders, failed
from actors.serving.image_request import ImageRequest, ModelCard, check_model, check_read, fields_of, wishes_of
from actors.serving.refusals import BUSY, Busy, Refused, add_errors, error
from marval_ray.families.base import Wish

Result = TypeVar("Result")

PAGE = Path(__file__).with_name("page.html")


@dataclass(frozen=True)
class Png:
    """A finished image."""

    content: bytes
    version: str


@dataclass(frozen=True)
class PartialImage:
    """An image on the way, after so many loops."""

    content: bytes
    loops: int


@dataclass(frozen=True)
class State:
    """active: images under way. refused: why the newest student is not served."""

    version: str
    active: int
    refused: str | None = None


@dataclass(frozen=True)
class Backend:
    """Who draws. Each may raise `Busy`."""

    draw: Callable[[Wish], Coroutine[Any, Any, Png]]
    watch: Callable[[Wish, int], AsyncIterator[PartialImage | Png]]
    """With so many partials on the way; the finished image comes last."""
    state: Callable[[], Awaitable[State]]
    unread: Callable[[str], Awaitable[str]]
    """Tells the end of a prompt that the model does not read; asked of models that read texts."""


@dataclass(frozen=True)
class Rules:
    """deadline: seconds for a request. key: what clients must send as bearer token. origins: who may call by CORS.

    allowed_hosts: names of this server, next to localhost and addresses.
    """

    deadline: float = 120.0
    key: str | None = None
    origins: Sequence[str] = ()
    allowed_hosts: Sequence[str] = ()


def make_app(card: ModelCard, backend: Backend, rules: Rules) -> FastAPI:
    """Return the application."""
    html = PAGE.read_text(encoding="utf-8")
    # FastAPI as it is, but /docs needs no CDN.
    app = FastAPIOffline(title="marval_ray", version="1", description="Images of a one-step masked auto-regressive model.", redoc_url=None)

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(html)

    @app.get("/healthz")
    async def healthz() -> dict[str, str | int]:
        """Tell whether a model answers, and how many images it is drawing."""
        state = await within(rules.deadline, backend.state())
        answer: dict[str, str | int] = {"status": "ok", "model_version": state.version, "active": state.active}
        return answer if state.refused is None else answer | {"refused": state.refused}

    app.include_router(guarded_routes(card, backend, rules))
    add_errors(app, fields_of(card))
    add_border(app, rules)
    return app


def add_border(app: FastAPI, rules: Rules) -> None:
    """Put around `app` what holds for all its answers; what is added last is met first."""
    if rules.origins:
        app.add_middleware(CORSMiddleware, allow_origins=rules.origins, allow_methods=["*"], allow_headers=["*"])
    app.add_middleware(Hosts, names=rules.allowed_hosts)
    app.add_middleware(SafeHeaders)
    app.add_middleware(Head)
    app.add_exception_handler(500, failed)


def guarded_routes(card: ModelCard, backend: Backend, rules: Rules) -> APIRouter:
    """Return what only those may ask for who have the key."""
    created = int(time.time())
    described = HTTPBearer(auto_error=False, description="Only when the server has a key.")
    bodies = Bodies(min(rules.deadline, BODY_SECONDS), OPEN_BODIES)
    router = APIRouter(prefix="/v1", route_class=guarded_by(rules.key, bodies), dependencies=[Depends(described)])

    @router.get("/models")
    async def models() -> dict[str, Any]:
        """Describe the model, its classes and limits."""
        state = await within(rules.deadline, backend.state())
        return {"object": "list", "data": [description(card, state.version, created)]}

    @router.get("/models/{model:path}", responses={404: {"description": "No such model"}})
    async def model(model: str) -> dict[str, Any]:
        """Describe one model in the same way."""
        check_model(model, card)
        state = await within(rules.deadline, backend.state())
        return description(card, state.version, created)

    @router.post("/images/generations", responses=ANSWERS)
    async def generate(request: ImageRequest, accept: Annotated[str, Header()] = "*/*") -> Response:
        """Draw images: JSON, one PNG if `Accept` is image/png, or server-sent events with `stream`."""
        wishes = wishes_of(request, card)
        if not card.classes:
            check_read(await within(rules.deadline, backend.unread(wishes[0].prompt.texts[0])))
        if request.stream:
            events = streamed(backend, wishes, request.partial_images, card, rules.deadline)
            return StreamingResponse(await started(events), media_type="text/event-stream")
        as_png = wants_png(accept)
        if as_png and request.n != 1:
            raise Refused(406, f"image/png holds one image and n is {request.n}: ask for n = 1, or for application/json", "n")
        pictures = await within(rules.deadline, together(backend.draw(wish) for wish in wishes))
        if as_png:
            headers = {"x-model-version": pictures[0].version, "x-seed": str(wishes[0].seed)}
            return Response(pictures[0].content, media_type="image/png", headers=headers)
        return JSONResponse(answer(card, wishes, pictures), headers={"x-model-version": pictures[0].version})

    return router


ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {}, "image/png": {}, "text/event-stream": {}}},
    **{code: {"description": text} for code, text in (
        (400, "No JSON, no such class or size, a prompt too long"), (401, "Wrong key"), (404, "No such model"), (406, "n > 1 as image/png"),
        (408, "A body that does not end"), (413, "Too long"), (421, "No host of this server"),
        (422, "A field of the wrong type or out of its range"), (503, "Busy: see Retry-After"), (504, "Not done within the deadline"),
    )},
}  # fmt: skip


def wants_png(accept: str) -> bool:
    """Tell whether the header names image/png, or all images, and no less gladly than JSON (RFC 9110, 12.5.1)."""
    weights = {kind.lower(): weight(rest) for kind, rest in re.findall(r"([^\s,;]+/[^\s,;]+)([^,]*)", accept)}
    png = weights.get("image/png", weights.get("image/*", 0.0))
    as_json = weights.get("application/json", weights.get("application/*", weights.get("*/*", 0.0)))
    return png > 0 and png >= as_json


def weight(parameters: str) -> float:
    q = re.search(r";\s*q\s*=\s*(\d(?:\.\d*)?)", parameters, re.IGNORECASE)
    return float(q[1]) if q else 1.0


async def within(seconds: float, work: Awaitable[Result]) -> Result:
    """Return the result of `work`. Raises Refused when it takes longer."""
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError:
        raise Refused(504, f"not done within {seconds:g} seconds: ask for fewer images or steps, or come back later") from None


async def together(work: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Do all at once; when one fails, or this is cancelled, the others are cancelled."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def streamed(backend: Backend, wishes: list[Wish], partials: int, card: ModelCard, deadline: float) -> AsyncIterator[bytes]:
    """Yield events of all images as they come. Raises Busy and Refused."""
    queue: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def follow(index: int, wish: Wish) -> None:
        seen = 0
        async for item in backend.watch(wish, partials):
            kind, own = "completed", {"model_version": getattr(item, "version", None)}
            if isinstance(item, PartialImage):
                kind, own = "partial_image", {"partial_image_index": seen, "loops": item.loops}
                seen += 1
            queue.put_nowait(event(f"image_generation.{kind}", entry(wish, item.content) | common(card, index) | own))

    everything = together(follow(index, wish) for index, wish in enumerate(wishes))
    task = asyncio.create_task(within(deadline, everything))
    task.add_done_callback(lambda _: queue.put_nowait(None))
    try:
        while (item := await queue.get()) is not None:
            yield item
        await task
    finally:
        task.cancel()


async def started(events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Return the same events, once the first is there: until then an error has a status of its own, later it is an event."""
    first = await anext(events)

    async def all_of() -> AsyncIterator[bytes]:
        yield first
        try:
            async for item in events:
                yield item
        except Busy:
            yield event("error", error(*BUSY))
        except Refused as reason:
            yield event("error", error(reason.status_code, reason.detail))

    return all_of()


def event(kind: str, value: dict[str, Any]) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind} | value)}\n\n".encode()


def entry(wish: Wish, png: bytes) -> dict[str, Any]:
    return {"b64_json": base64.b64encode(png).decode(), "seed": wish.seed}


def common(card: ModelCard, index: int) -> dict[str, Any]:
    """Return what OpenAI's clients expect in each event, and which of the images it is about."""
    now = int(time.time())
    return {"index": index, "created_at": now, "size": card.shape, "quality": "auto", "background": "opaque", "output_format": "png"}


def answer(card: ModelCard, wishes: list[Wish], pictures: list[Png]) -> dict[str, Any]:
    data = [entry(wish, picture.content) for wish, picture in zip(wishes, pictures, strict=True)]
    return {
        "created": int(time.time()), "data": data, "output_format": "png", "size": card.shape, "model": card.name,
        "model_version": pictures[0].version, "steps": wishes[0].loops,
        **({"class": wishes[0].prompt.texts[0]} if card.classes else {}),
    }  # fmt: skip


def description(card: ModelCard, version: str, created: int) -> dict[str, Any]:
    return {
        "id": card.name, "object": "model", "created": created, "owned_by": "marval_ray", "version": version,
        "classes": card.classes, "steps": card.steps, "max_steps": card.max_steps, "size": card.shape,
    }  # fmt: skip
