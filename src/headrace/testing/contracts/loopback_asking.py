"""A forwarder in front of a `Loopback` server, asked as a gateway asks it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, ClassVar

import pytest

from headrace import registry, transport
from headrace.call import Call
from headrace.forwarder import Forwarder
from headrace.given import giving
from headrace.reply import Reply
from headrace.testing import asking, misbehaviour
from headrace.testing.clock import BACKEND
from headrace.testing.contracts import expect
from headrace.testing.loopback import Loopback
from headrace.testing.misbehaviour import Step, delta
from headrace.transport import Transport

Ask = Callable[..., Awaitable[Reply]]


class LoopbackAsking:
    """How a forwarder is made, what its upstream says, and how it is asked."""

    key: ClassVar[str] = "sk-own-1f0c9a"
    """The key that `make` gives the forwarder; empty for one that takes none."""
    passes_through: ClassVar[bool] = True
    """Whether it takes calls that are passed through."""

    def make(self, url: str) -> Forwarder:
        """The forwarder, for a server at `url`, which has no path."""
        raise NotImplementedError("say how the forwarder is made: def make(self, url)")

    def make_transport(self) -> Transport:
        """What the forwarder gets from `Transport.of_server`."""
        return transport.best()

    def answers(self, text: str, *lines: str) -> tuple[Step, ...]:
        """A whole answer to a chat that says `text`, with these header lines."""
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return misbehaviour.answers({"model": "m", "choices": [choice]}, *lines)

    def streams(self, *words: str) -> tuple[Step, ...]:
        """A stream that says `words`: its head, a step for each word, and what ends it."""
        return misbehaviour.streams(*(delta(content=word) for word in words), delta("stop"))

    def given(self, operation: str = "chat", **members: Any) -> Call:
        """A call that the upstream can answer."""
        return asking.call(operation, **members)

    # What the tests stand on

    @pytest.fixture
    def anyio_backend(self) -> tuple[str, Mapping[str, Any]]:
        """A loop whose clock can be turned."""
        return BACKEND

    @pytest.fixture
    async def server(self) -> AsyncIterator[Loopback]:
        """The upstream."""
        async with Loopback() as server:
            yield server

    @pytest.fixture
    async def elsewhere(self) -> AsyncIterator[Loopback]:
        """A server that nobody named in a configuration."""
        async with Loopback() as server:
            yield server

    @pytest.fixture
    async def ask(self, server: Loopback) -> AsyncIterator[Ask]:
        """Asks the forwarder, in front of `server`."""
        async with self.opened(server.url) as forwarder:
            yield partial(self.asked, forwarder)

    @asynccontextmanager
    async def opened(self, url: str) -> AsyncIterator[Forwarder]:
        """A new forwarder, opened."""
        async with self.made(url) as forwarder, AsyncExitStack() as stack:
            await expect.opened(stack, forwarder)
            yield forwarder

    @asynccontextmanager
    async def made(self, url: str) -> AsyncIterator[Forwarder]:
        """A new forwarder with a transport of its own, as a gateway makes one."""
        through = self.make_transport()
        with giving({Transport: through}):
            forwarder = self.make(url)
        try:
            yield forwarder
        finally:
            await through.aclose()

    async def asked(self, forwarder: Forwarder, call: Call, **options: Any) -> Reply:
        """The reply of an attempt through what the forwarder brings."""
        brought = tuple(
            registry.named("plugins", name)(**written)
            for each in getattr(forwarder, "brings", ())
            for name, written in each.items()
        )
        secrets = (self.key,) if self.key else ()
        return await asking.ask(
            upstream=forwarder, call=call, brought=brought, secrets=secrets, **options
        )
