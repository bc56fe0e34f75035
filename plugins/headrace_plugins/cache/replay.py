"""A kept answer, told again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial

from headrace import SSE, Call, Dialect, Event, Reply
from headrace_plugins.cache.stored import Stored, event_of

_AT_ONCE = 32
"""So many events are sent before others have their turn."""


def replayed(stored: Stored, call: Call, *, timed: bool = False) -> Reply:
    """The answer to `call`, all at once or at the pace at which it was first given."""
    reply = told(stored.as_asked(call), call.dialect, timed=timed)
    reply.deadline = call.deadline
    return reply.through(partial(_shown, call)) if reply.framing == "sse" else reply


def told(stored: Stored, dialect: Dialect, *, timed: bool = False) -> Reply:
    """The whole answer in the form in which it is kept, the usage included."""
    events = _events(stored, dialect, timed=timed)
    return Reply(events, status=stored.status, headers=stored.headers, framing=stored.framing)


async def _shown(call: Call, events: AsyncIterator[Event]) -> AsyncIterator[Event]:
    async for event in events:
        if event.data is None or not call.dialect.extra_usage(call, event):
            yield event


async def _events(stored: Stored, dialect: Dialect, *, timed: bool) -> AsyncIterator[Event]:
    loop = asyncio.get_running_loop()
    began = loop.time()
    for number, part in enumerate(stored.parts, 1):
        if timed and (left := began + part.after - loop.time()) > 0:
            await asyncio.sleep(left)
        elif number % _AT_ONCE == 0:
            await asyncio.sleep(0)
        yield event_of(part, stored.framing)
    if stored.framing == "sse" and dialect.end:
        for frame in SSE(len(dialect.end)).feed(dialect.end):
            yield Event.of(frame)
