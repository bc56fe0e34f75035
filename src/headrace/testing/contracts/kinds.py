"""Calls of every kind, and an upstream that answers all of them.

A kind is an operation, with ` stream` behind it where the reply is one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from headrace.call import PASSTHROUGH, Call
from headrace.reply import Event, Reply
from headrace.testing.script import Act, Upstream, chunk, says

PLAIN = ("chat", "completion", "embedding")
STREAMED = ("chat stream", "completion stream")

BINARY = b"--form\r\n\x00\xff\xfe no JSON \r\n--form--\r\n"
"""What goes through in both directions of a passthrough call."""

every = pytest.mark.parametrize("kind", [*PLAIN, *STREAMED, PASSTHROUGH])
with_json = pytest.mark.parametrize("kind", [*PLAIN, *STREAMED])
with_events = pytest.mark.parametrize("kind", [*STREAMED, PASSTHROUGH])
streamed = pytest.mark.parametrize("kind", STREAMED)
plain_and_streamed = pytest.mark.parametrize("kind", ["chat", "chat stream"])


def members_of(kind: str) -> tuple[str, dict[str, Any]]:
    """The operation of a kind, and what its call has beside what all have."""
    operation, _, stream = kind.partition(" ")
    if operation == PASSTHROUGH:
        return operation, {"body": BINARY}
    return operation, {"stream": True} if stream else {}


async def answers(upstream: Upstream, call: Call) -> Any:
    """An act for calls of every kind."""
    if call.operation == PASSTHROUGH:
        return await saying([BINARY[:9], BINARY[9:]], asyncio.Semaphore(2))(upstream, call)
    return await says("hello ", "world")(upstream, call)


def saying(pieces: Sequence[bytes], more: asyncio.Semaphore) -> Act:
    """A stream that goes on each time it may."""

    async def act(upstream: Upstream, call: Call) -> Reply:
        raw = call.operation == PASSTHROUGH

        async def events() -> AsyncIterator[Event]:
            for piece in pieces:
                await more.acquire()
                said = chunk(content=piece.decode("latin-1"))
                yield Event(piece) if raw else Event.saying(said, "sse")

        return Reply(events(), framing="raw" if raw else "sse")

    return act
