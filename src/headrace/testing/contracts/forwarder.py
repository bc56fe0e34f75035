"""What every forwarder must keep.

    class TestOpenAI(ForwarderContract):
        def make(self, url: str) -> Forwarder:
            return OpenAI(base_url=f"{url}/v1", api_key=Secret(self.key))

Each test asks a `Loopback` server over real sockets, as a gateway would ask it: through an attempt
and what the forwarder `brings`. A server that speaks another dialect than OpenAI's is told how by
`answers` and `streams`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, suppress
from typing import Any, ClassVar

import pytest

from headrace import registry, transport
from headrace.call import PASSTHROUGH, Call, Timeouts
from headrace.errors import CallError, UpstreamError
from headrace.forwarder import Forwarder
from headrace.reply import Reply
from headrace.testing import asking, misbehaviour
from headrace.testing.client import settled
from headrace.testing.clock import BACKEND, Clock
from headrace.testing.contracts import expect, headers, kinds
from headrace.testing.loopback import Loopback
from headrace.testing.misbehaviour import LAST_CHUNK, Act, Step, cut, delta, head, status, whole
from headrace.transport import Transport

_WORDS = ("Grüß ", "Gott ", "👋")
_SILENT = Timeouts(first_event=30, idle=30)


@pytest.mark.anyio
class ForwarderContract:
    """Inherit from this and say how the forwarder is made, and what its upstream sends."""

    key: ClassVar[str | None] = "sk-own-1f0c9a"
    """The key that `make` gives the forwarder; None for one that takes none."""
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
    async def under_test(self, server: Loopback) -> AsyncIterator[Forwarder]:
        """The forwarder, opened."""
        async with self.opened(server.url) as forwarder:
            yield forwarder
