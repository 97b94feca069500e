"""The replica that speaks HTTP: a Ray Serve deployment around the application of actors/serving/api.py."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI
from ray.exceptions import RayActorError
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from actors.serving.api import Backend, PartialImage, Png, Rules, State, make_app
from actors.serving.endpoint_config import EndpointConfig
from actors.serving.image_request import ModelCard
from actors.serving.refusals import Busy
from marval_ray.families.base import Wish


class Api:
    """HTTP."""

    def __init__(self, card: ModelCard, config: EndpointConfig, key: str | None, sampler: DeploymentHandle):
        self.card, self.sampler = card, sampler
        self.rules = Rules(config.deadline, key, config.origins, config.allowed_hosts)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return make_app(self.card, Backend(self.draw, self.watch, self.state, self.unread), self.rules)

    async def draw(self, wish: Wish) -> Png:
        with busy():
            response = self.sampler.draw.remote(wish)
            try:
                png = await response
            finally:
                response.cancel()
        if png is None:
            raise Busy
        return png

    async def watch(self, wish: Wish, partials: int) -> AsyncIterator[PartialImage | Png]:
        with busy():
            item: PartialImage | Png | None = None
            responses: Any = self.sampler.options(stream=True).watch.remote(wish, partials)
            try:
                async for item in responses:
                    yield item
            finally:
                responses.cancel()
        if item is None:
            raise Busy

    async def state(self) -> State:
        with busy():
            return await self.sampler.state.remote()

    async def unread(self, text: str) -> str:
        with busy():
            return await self.sampler.unread.remote(text)


@contextmanager
def busy() -> Iterator[None]:
    """Raise `Busy` when nobody is there: the same request will do later."""
    try:
        yield
    except (DeploymentUnavailableError, RayActorError) as error:
        raise Busy from error
