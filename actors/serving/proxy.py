"""What Ray Serve's proxy adds to answers that `Api` does not give: 503 in their shape, not 500 or 404 in plain text.

A proxy calls `middlewares` when RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names it, as `before_serve` does.
"""

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from actors.serving.refusals import error

MESSAGE = "the server is starting or ending, or lost a process: come back in a second"


def middlewares() -> list[Middleware]:
    return [Middleware(Answered)]


class Answered:
    """Answers 503 where Serve gives none, or an error of its own: those have no policy of contents, as all of `Api` have."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith("/-/"):
            return await self.app(scope, receive, send)
        begun = False

        async def pass_on(message: Message) -> None:
            nonlocal begun
            begun = begun or (message["type"] == "http.response.start" and "content-security-policy" in Headers(scope=message))
            if begun:
                await send(message)

        # Serve reads some headers as UTF-8, and fails when they are not.
        ascii_headers = [(name, value) for name, value in scope["headers"] if value.isascii()]
        await self.app({**scope, "headers": ascii_headers}, receive, pass_on)
        if not begun:
            await JSONResponse(error(503, MESSAGE), 503, {"Retry-After": "1"})(scope, receive, send)
