"""What holds for every answer, whatever the path: the host that is asked, HEAD, and headers that browsers heed."""

import base64
import hashlib
import ipaddress
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from actors.serving.refusals import error

SAFE = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}
POLICY = "default-src 'none'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


async def failed(_: Request, reason: Exception) -> JSONResponse:
    """Answer a request that met a fault of the program. This is outside of all middleware, so the headers are put in here."""
    sentence = "the server failed at this request, its log says why"
    return JSONResponse(error(500, sentence), 500, SAFE | {"content-security-policy": POLICY})


class Hosts:
    """Answers those who ask for an address, for localhost or for one of `names` (`*` stands for anything).

    Any other name may be a stranger's, who made it point here to let a browser read what this machine alone may see (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, names: Sequence[str]):
        self.app, self.names = app, ["localhost", *(name.lower() for name in names)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        host = Headers(scope=scope).get("host", "") if scope["type"] == "http" else ""
        if not host or self.known(host.lower()):
            return await self.app(scope, receive, send)
        sentence = f"host {ascii(host[:200])} is not served here; --allowed-hosts names those that are"
        await JSONResponse(error(421, sentence), 421)(scope, receive, send)

    def known(self, host: str) -> bool:
        name = re.sub(r":\d*$", "", host)
        return is_address(name.removeprefix("[").removesuffix("]")) or any(fnmatchcase(name, one) for one in self.names)


def is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


class Head:
    """Answers HEAD wherever GET is, without the body."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("method") != "HEAD":
            return await self.app(scope, receive, send)

        async def without_body(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        await self.app({**scope, "method": "GET"}, receive, without_body)


class SafeHeaders:
    """Puts SAFE and a policy for contents into each answer, and ends the connection of a request that is answered before its body."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        exchange = Exchange(scope, receive, send)
        await self.app(scope, exchange.receive, exchange.send)


class Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send):
        self._receive, self._send = receive, send
        self._start: Message = {}
        headers = Headers(scope=scope)
        self._open = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"

    async def receive(self) -> Message:
        message = await self._receive()
        self._open = self._open and message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Keep the start back until the first part of the content, which the policy depends on."""
        if message["type"] == "http.response.start":
            self._start = message
            return
        if self._start:
            await self._send(self._finished(message.get("body", b"")))
            self._start = {}
        await self._send(message)

    def _finished(self, content: bytes) -> Message:
        headers = MutableHeaders(scope=self._start)
        html = headers.get("content-type", "").startswith("text/html")
        headers.update(SAFE | {"content-security-policy": POLICY + (own_parts(content.decode()) if html else "")})
        if self._open:
            headers["connection"] = "close"
        return self._start


def own_parts(html: str) -> str:
    """Return the policy that lets scripts and styles written into `html`, and files of this server, run, and no others."""
    kinds = {kind: re.findall(rf"<{kind}\b[^>]*>(.*?)</{kind}>", html, re.DOTALL) for kind in ("script", "style")}
    return "".join(f"; {kind}-src 'self' {' '.join(map(digest, parts))}" for kind, parts in kinds.items())


def digest(part: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()}'"
