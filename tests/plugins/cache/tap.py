"""An upstream that says one word after the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from headrace import Call, Event, Reply
from headrace.testing import Upstream, chunk, says


class Tap:
    """An answer that goes on when it is told to."""

    def __init__(self, *words: str, fails: Exception | None = None) -> None:
        self._more = asyncio.Semaphore(0)
        self._words = words
        self._fails = fails
        self.given = 0

    def go(self, times: int = 1) -> None:
        """Say so many words, the end counting as one."""
        for _ in range(times):
            self._more.release()

    async def __call__(self, upstream: Upstream, call: Call) -> Reply:
        """The act of a script: the first output has to be let go, too."""
        if not call.dialect.streams(call):
            await self._more.acquire()
            if self._fails:
                raise self._fails
            reply: Reply = await says("".join(self._words))(upstream, call)
            return reply
        return Reply(self._events(), framing="sse")

    async def _events(self) -> AsyncIterator[Event]:
        for word in self._words:
            await self._more.acquire()
            self.given += 1
            yield Event.saying(chunk(content=word), "sse")
        await self._more.acquire()
        if self._fails:
            raise self._fails
        yield Event.saying(chunk(finish="stop"), "sse")
        yield Event(b"data: [DONE]\n\n", b"[DONE]")
