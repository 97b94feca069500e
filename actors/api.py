"""The HTTP interface, without Ray: routes in the shape of OpenAI's Images API, errors as one sentence each."""

import asyncio
import base64
import hmac
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Depends, FastAPI, Header, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, ConfigDict, Field

from actors.api_errors import BUSY, Busy, LimitedBody, Refused, add_errors, error
from marval_ray.class_names import find_class
from marval_ray.continuous import Wish

Result = TypeVar("Result")

PAGE = Path(__file__).with_name("page.html")
SEEDS = 2**32
MAX_IMAGES = 16


class ImageRequest(BaseModel):
    """What to draw. Image i of a request has the seed `seed` + i, and depends on its own seed alone."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    prompt: Annotated[str, Field(min_length=1, max_length=1000, examples=["an ankle boot"])] | None = None
    """Any text with the name of a class in it."""
    label: Annotated[
        int | str | None, Field(alias="class", description="Number or name of a class; it goes before `prompt`.")
    ] = None
    n: Annotated[int, Field(ge=1, le=MAX_IMAGES, description="Images.")] = 1
    seed: Annotated[int, Field(ge=0, lt=SEEDS, description="By default a random one.")] | None = None
    steps: Annotated[int, Field(ge=1, description="N_AR: auto-regressive loops an image.")] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, description="Factor of the noise; training has 1.")] = 1.0
    size: Annotated[str, Field(max_length=20, description="auto, or the size of the model's images.")] = "auto"
    model: Annotated[str, Field(max_length=200)] | None = None
    response_format: Literal["b64_json"] = "b64_json"
    output_format: Literal["png"] = "png"
    stream: Annotated[bool, Field(description="Server-sent events instead of one answer.")] = False
    partial_images: Annotated[int, Field(ge=0, le=64, description="Looks at each image on the way, with `stream`.")] = 0
    user: Annotated[str, Field(max_length=200, description="Not looked at.")] | None = None


@dataclass(frozen=True)
class Card:
    """What is served, for those who ask and for checks. size: rows and columns of an image."""

    name: str
    classes: tuple[str, ...]
    max_steps: int
    steps: int
    size: int

    @property
    def shape(self) -> str:
        """The size as OpenAI's API writes it."""
        return f"{self.size}x{self.size}"


@dataclass(frozen=True)
class Png:
    """A finished image."""

    content: bytes
    version: str


@dataclass(frozen=True)
class Look:
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
    watch: Callable[[Wish, int], AsyncIterator[Look | Png]]
    """With so many looks on the way; the finished image comes last."""
    state: Callable[[], Awaitable[State]]


@dataclass(frozen=True)
class Rules:
    """deadline: seconds for a request. key: what clients must send as bearer token. origins: who may call by CORS."""

    deadline: float = 120.0
    key: str | None = None
    origins: Sequence[str] = ()


def make_app(card: Card, backend: Backend, rules: Rules) -> FastAPI:
    """The application."""
    created, html = int(time.time()), PAGE.read_text()
    # FastAPI as it is, but /docs needs no CDN.
    app = FastAPIOffline(title="marval_ray", version="1", description="Images of a one-step masked auto-regressive model.")
    app.add_middleware(LimitedBody)
    if rules.origins:
        app.add_middleware(CORSMiddleware, allow_origins=rules.origins, allow_methods=["*"], allow_headers=["*"])
    add_errors(app)
    bearer = HTTPBearer(auto_error=False, description="Only when the server has a key.")

    def authorised(sent: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> None:
        if rules.key is not None and not (sent and hmac.compare_digest(sent.credentials.encode(), rules.key.encode())):
            raise Refused(401, "this server wants its API key as a bearer token: Authorization: Bearer KEY")

    guarded: Any = [Depends(authorised)]

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(html)

    @app.get("/healthz")
    async def healthz() -> dict[str, str | int]:
        """Whether a model answers, and how many images it is drawing."""
        state = await within(rules.deadline, backend.state())
        answer: dict[str, str | int] = {"status": "ok", "model_version": state.version, "active": state.active}
        return answer if state.refused is None else answer | {"refused": state.refused}

    @app.get("/v1/models", dependencies=guarded)
    async def models() -> dict[str, Any]:
        """The model, its classes and limits."""
        state = await within(rules.deadline, backend.state())
        return {"object": "list", "data": [description(card, state.version, created)]}

    @app.post("/v1/images/generations", dependencies=guarded, responses=ANSWERS)
    async def generate(request: ImageRequest, accept: Annotated[str, Header()] = "*/*") -> Response:
        """Draw images: JSON, one PNG if `Accept` is image/png, or server-sent events with `stream`."""
        wishes = wishes_of(request, card)
        if request.stream:
            events = streamed(backend, wishes, request.partial_images, card, rules.deadline)
            return StreamingResponse(await started(events), media_type="text/event-stream")
        as_png = "image/png" in accept
        if as_png and request.n != 1:
            raise Refused(406, f"image/png holds one image and n is {request.n}: ask for n = 1, or for application/json", "n")
        pictures = await within(rules.deadline, together(backend.draw(wish) for wish in wishes))
        if as_png:
            headers = {"x-model-version": pictures[0].version, "x-seed": str(wishes[0].seed)}
            return Response(pictures[0].content, media_type="image/png", headers=headers)
        return JSONResponse(answer(card, wishes, pictures), headers={"x-model-version": pictures[0].version})

    return app


ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {}, "image/png": {}, "text/event-stream": {}}},
    **{code: {"description": text} for code, text in (
        (400, "No JSON, or no such class or size"), (401, "Wrong key"), (404, "No such model"), (406, "n > 1 as image/png"),
        (413, "Too long"), (422, "A field of the wrong type or out of its range"), (503, "Busy: see Retry-After"),
        (504, "Not done within the deadline"),
    )},
}  # fmt: skip


def wishes_of(request: ImageRequest, card: Card) -> list[Wish]:
    """One for each image. Raises Refused."""
    if request.model is not None and request.model != card.name:
        raise Refused(404, f"model {ascii(request.model)} is not served here; {card.name!r} is", "model")
    if request.size not in ("auto", card.shape):
        raise Refused(400, f"size {ascii(request.size)} cannot be had: leave it out, or ask for {card.shape}", "size")
    steps = card.steps if request.steps is None else request.steps
    if steps > card.max_steps:
        raise Refused(422, f"steps: {steps} is more than the {card.max_steps} tokens of an image", "steps")
    first = secrets.randbelow(SEEDS) if request.seed is None else request.seed
    label = label_of(request, card.classes)
    return [Wish(label, (first + i) % SEEDS, loops=steps, temperature=request.temperature) for i in range(request.n)]


def label_of(request: ImageRequest, names: Sequence[str]) -> int:
    """The class that is asked for. Raises Refused."""
    example = f"such as {names[0]!r}; GET /v1/models lists all {len(names)}"
    match request.label, request.prompt:
        case int(label), _ if 0 <= label < len(names):
            return label
        case int(label), _:
            raise Refused(400, f"class {label} is not one of 0 to {len(names) - 1}", "class")
        case str(name), _:
            folded = [known.casefold() for known in names]
            if name.casefold() not in folded:
                raise Refused(400, f"class {ascii(name[:80])} is unknown: give a name {example}", "class")
            return folded.index(name.casefold())
        case _, str(prompt):
            if (found := find_class(prompt, names)) is None:
                raise Refused(400, f"prompt {ascii(prompt[:80])} names no class of this model: name one {example}", "prompt")
            return found
    raise Refused(400, f"give prompt or class: a name {example}", "prompt")


async def within(seconds: float, work: Awaitable[Result]) -> Result:
    """The result of `work`. Raises Refused when it takes longer."""
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError:
        raise Refused(504, f"not done within {seconds:g} seconds: ask for fewer images or steps, or come back later") from None


async def together(work: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """All at once; when one fails, or this is cancelled, the others are cancelled."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def streamed(backend: Backend, wishes: list[Wish], looks: int, card: Card, deadline: float) -> AsyncIterator[bytes]:
    """Events of all images as they come. Raises Busy and Refused."""
    queue: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def follow(index: int, wish: Wish) -> None:
        seen = 0
        async for item in backend.watch(wish, looks):
            kind, own = "completed", {"model_version": getattr(item, "version", None)}
            if isinstance(item, Look):
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
    """The same events, once the first is there: until then an error has a status of its own, later it is an event."""
    first = await anext(events)

    async def all_of() -> AsyncIterator[bytes]:
        yield first
        try:
            async for item in events:
                yield item
        except Busy:
            yield event("error", error(*BUSY))
        except Refused as reason:
            yield event("error", error(reason.status, str(reason)))

    return all_of()


def event(kind: str, value: dict[str, Any]) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind} | value)}\n\n".encode()


def entry(wish: Wish, png: bytes) -> dict[str, Any]:
    return {"b64_json": base64.b64encode(png).decode(), "seed": wish.seed}


def common(card: Card, index: int) -> dict[str, Any]:
    """What OpenAI's clients expect in each event, and which of the images it is about."""
    now = int(time.time())
    return {"index": index, "created_at": now, "size": card.shape, "quality": "auto", "background": "opaque", "output_format": "png"}


def answer(card: Card, wishes: list[Wish], pictures: list[Png]) -> dict[str, Any]:
    data = [entry(wish, picture.content) for wish, picture in zip(wishes, pictures, strict=True)]
    return {
        "created": int(time.time()), "data": data, "output_format": "png", "size": card.shape, "model": card.name,
        "model_version": pictures[0].version, "class": card.classes[wishes[0].label], "steps": wishes[0].loops,
    }  # fmt: skip


def description(card: Card, version: str, created: int) -> dict[str, Any]:
    return {
        "id": card.name, "object": "model", "created": created, "owned_by": "marval_ray", "version": version,
        "classes": card.classes, "steps": card.steps, "max_steps": card.max_steps, "size": card.shape,
    }  # fmt: skip
