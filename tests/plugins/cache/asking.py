"""What the tests of the cache have in common."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson

from headrace import Call, Caller, Event, Plugin, Reply, Resolved, UpstreamError
from headrace.testing import Upstream, ask, call, raw
from headrace.testing.script import Act


def asked(
    operation: str = "chat",
    *,
    who: str = "ann",
    tenant: str | None = None,
    route: str = "m",
    headers: dict[str, str] | None = None,
    **members: Any,
) -> Call:
    """A call as the router hands it on, from a caller."""
    given = call(operation, headers=headers, **members)
    given.record.route = route
    given = given.telling(Resolved(f"{route} as it is"))
    return given.replace(caller=Caller(who, tenant=tenant))


async def answer(plugin: Plugin, upstream: Upstream, given: Call) -> bytes:
    """All the bytes of the answer."""
    return await raw(await ask(plugin, upstream=upstream, call=given))


def status(given: Call) -> str:
    """What the cache made of a call."""
    assert given.record.cache
    return given.record.cache.status


def gives(*values: Any, fails: UpstreamError | None = None) -> Act:
    """A stream of these values, as it would be after a request for its usage; or a plain answer."""

    async def act(upstream: Upstream, call: Call) -> Reply:
        if not call.dialect.streams(call):
            return Reply.plain(values[0])

        async def events() -> AsyncIterator[Event]:
            for value in values:
                yield Event.saying(value, "sse")
            if fails:
                raise fails
            yield Event(b"data: [DONE]\n\n", b"[DONE]")

        return Reply(events(), framing="sse")

    return act


def values(stream: bytes) -> list[Any]:
    """What the events of a stream carry; `DONE` for its end."""
    texts = [frame.removeprefix(b"data: ") for frame in stream.split(b"\n\n") if frame]
    return ["DONE" if text == b"[DONE]" else orjson.loads(text) for text in texts]


def passes(*pieces: bytes) -> Act:
    """Bytes that nobody reads."""

    async def act(upstream: Upstream, call: Call) -> Reply:
        async def events() -> AsyncIterator[Event]:
            for piece in pieces:
                yield Event(piece)

        return Reply(events(), framing="raw", headers={"content-type": "audio/mpeg"})

    return act
