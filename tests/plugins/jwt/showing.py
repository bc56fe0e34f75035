"""Shows tokens to the plugin, as a client would."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from headrace import Call, Caller, Next, Plugin, Reply, Request, Response, Transport
from headrace.testing import Upstream, ask, call, text
from headrace_plugins.jwt_auth import JwtAuth

from .tokens import AUDIENCE, ISSUER


class Nowhere(Transport):
    """A transport for whoever has nothing to ask."""

    name = "nowhere"

    async def send(self, request: Request, *, connect: float, idle: float) -> Response:
        """Nobody is to be asked."""
        raise AssertionError(f"{request.url} was asked")

    async def aclose(self) -> None:
        """Nothing is open."""


def guard(**options: Any) -> JwtAuth:
    """The plugin for the usual issuer and audience."""
    return JwtAuth(**{"issuer": ISSUER, "audience": AUDIENCE, "transport": Nowhere(), **options})


@asynccontextmanager
async def opened(**options: Any) -> AsyncIterator[JwtAuth]:
    """The same, opened as a gateway opens it, with a transport that is closed in the end."""
    transport = options.pop("transport", None) or Transport.of_server()
    try:
        async with guard(transport=transport, **options) as plugin:
            yield plugin
    finally:
        await transport.aclose()


async def show(plugin: Plugin, token: str, *, asked: Call | None = None) -> Caller:
    """The caller that the rest of the chain sees. Raises what the client is told instead."""
    seen: list[Call] = []

    async def noting(call: Call, call_next: Next) -> Reply:
        seen.append(call)
        return await call_next(call)

    asked = asked or showing(token)
    upstream = Upstream()
    try:
        await text(await ask(plugin, noting, upstream=upstream, call=asked))
    except BaseException:
        assert upstream.asked == []
        raise
    [passed] = seen
    assert passed.caller is not None
    assert asked.record.caller == passed.caller
    return passed.caller


def showing(token: str) -> Call:
    """A call with this token."""
    return call(headers={"authorization": f"Bearer {token}"})
