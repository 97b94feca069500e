"""Bodies of requests: the key comes first, then bytes within bounds, then JSON as RFC 8259 has it."""

import asyncio
import hmac
import json
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from fastapi import Request, Response
from fastapi.routing import APIRoute

from actors.serving.refusals import Refused

MAX_BODY = 64 * 1024
"""Bytes; the longest request that is allowed has about 5,000."""
BODY_SECONDS = 10.0
OPEN_BODIES = 256


class Bodies:
    """Reads bodies, each within `seconds`, at most `most` at once: when one more comes, the one that has been open longest must go.

    So a client that sends its body at once is served, however many never end theirs.
    """

    def __init__(self, seconds: float, most: int):
        self.seconds, self.most = seconds, most
        self.open: deque[asyncio.Timeout] = deque()

    async def read(self, parts: AsyncIterator[bytes]) -> bytes:
        """Read all of a body. Raises Refused when it is too long or does not end."""
        try:
            async with asyncio.timeout(self.seconds) as end:
                with self._place(end):
                    return await joined(parts)
        except TimeoutError:
            raise Refused(408, f"the body did not end within {self.seconds:g} seconds, or others waited: send all of it at once") from None

    @contextmanager
    def _place(self, end: asyncio.Timeout) -> Iterator[None]:
        self.open.append(end)
        if len(self.open) > self.most:
            self.open.popleft().reschedule(asyncio.get_running_loop().time())
        try:
            yield
        finally:
            if end in self.open:
                self.open.remove(end)


async def joined(parts: AsyncIterator[bytes]) -> bytes:
    content = b""
    async for part in parts:
        content += part
        if len(content) > MAX_BODY:
            raise Refused(413, f"the body is longer than {MAX_BODY} bytes")
    return content


class JsonRequest(Request):
    """A request whose body is read by `bodies`."""

    def __init__(self, request: Request, bodies: Bodies):
        super().__init__(request.scope, request.receive)
        self.bodies = bodies

    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            self._body = await self.bodies.read(self.stream())
        return self._body

    async def json(self) -> Any:
        return read_json(await self.body())


def guarded_by(key: str | None, bodies: Bodies) -> type[APIRoute]:
    """Return routes that ask for the key before they read a body: FastAPI's dependencies come after it."""

    class Guarded(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def checked(request: Request) -> Response:
                check_key(request.headers.get("authorization", ""), key)
                return await handle(JsonRequest(request, bodies))

            return checked

    return Guarded


def check_key(sent: str, key: str | None) -> None:
    """Raise Refused unless `sent`, the header, has the key, if there is one."""
    scheme, _, token = sent.partition(" ")
    if key is not None and not (scheme.lower() == "bearer" and hmac.compare_digest(token.strip().encode(), key.encode())):
        sentence = "this server wants its API key as a bearer token: Authorization: Bearer KEY"
        raise Refused(401, sentence, headers={"WWW-Authenticate": "Bearer"})


def read_json(content: bytes) -> Any:
    """Return what `content` says. Raises Refused with what is wrong with it."""
    try:
        return json.loads(content, object_pairs_hook=named_once, parse_constant=no_number)
    except UnicodeDecodeError as error:
        raise Refused(400, f"the body is not JSON: it is not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise Refused(400, "the body is JSON that is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise Refused(400, f"the body is not JSON: {error}") from None
    except ValueError:  # Python's limit for turning digits into a number
        raise Refused(400, "the body has an integer of thousands of digits") from None


def named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object of these fields. Raises Refused when one is there twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise Refused(400, f"the body names {ascii(twice[:80])} more than once")
    return found


def no_number(name: str) -> NoReturn:
    raise Refused(400, f"the body is not JSON: {name} is no number there")
