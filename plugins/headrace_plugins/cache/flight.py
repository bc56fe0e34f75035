"""One question that is being asked, and all who listen to the answer while it comes.

The work runs in a task of its own, at the pace of the fastest reader. Everybody reads what was said
so far, then the rest, each at its own pace. As long as the answer is no larger than `largest`, all
of it is held: who comes late hears the beginning. Once it has outgrown that, nobody new may listen,
and who falls behind by more than `largest` is cut off.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

from headrace import Call, CallError, Event, Overloaded, Reply, Usage, shielded
from headrace_plugins.cache.key import unasked
from headrace_plugins.cache.stored import Framing, Stored

_AT_ONCE = 32
"""So many events are read before others have their turn."""
_AHEAD = 64 * 1024
"""So many bytes are held that nobody has read yet."""


class Outgrown(Exception):
    """The answer is too large to be held until its end."""


class Reader:
    """One who listens: how far it has read, in events and bytes; or `waits` for all of it."""

    __slots__ = ("at", "bytes", "cut", "waits")

    def __init__(self) -> None:
        self.at = 0
        self.bytes = 0
        self.cut = False
        self.waits = False


class Flight:
    """The answer to `call` as it comes. `alone`, it goes on without a reader.

    `first` says that it is asked because nothing was kept, and not to have it anew. `left` is told
    when nobody may join any more.
    """

    def __init__(
        self,
        call: Call,
        *,
        largest: int,
        left: Callable[[Flight], None],
        alone: bool,
        first: bool,
    ) -> None:
        self.first = first
        self.events: list[Event] = []
        """What is held, all of it from the beginning as long as it is `whole`."""
        self.times: list[float] = []
        self.size = 0
        self.whole = True
        self.over = False
        self.error: BaseException | None = None
        self.reply: Reply | None = None
        """The reply that is being read; None until its first output."""
        self.framing: Framing = "json"
        self.finishes: dict[int, str | None] = {}
        """Why each of its choices came to its end; None of one that did not."""
        self.turned: Stored | None = None
        """All of it in the other form, once somebody has asked for that."""
        self.turning = asyncio.Lock()
        self._extra: set[int] = set()  # the events that are only for who asked for usage
        self._dialect = call.dialect
        self._deadline = call.deadline
        self._record = call.record
        self._unasked = unasked(call)
        self._gone = 0  # events that are no longer held
        self._largest = largest
        self._ahead = min(_AHEAD, largest / 2)
        self._left = left
        self._alone = alone
        self._readers: set[Reader] = set()
        self._news = asyncio.Event()
        self._moved = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def usage(self) -> Usage | None:
        """The tokens that were used, as far as they are known."""
        return self.reply.attempt.usage if self.reply and self.reply.attempt else None

    # The work

    def begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Let `work` run, which feeds this flight."""
        self._task = asyncio.create_task(work)
        return self._task

    async def feed(self, asked: Awaitable[Reply]) -> None:
        """Take in a reply to its end, and close it."""
        self.reply = reply = await asked
        self.framing = reply.framing
        error: BaseException | None = None
        self._tell()
        try:
            async for event in reply.events:
                await self._room()
                self._add(event)
        except BaseException as raised:
            error = raised
            raise
        finally:
            await reply.aclose(error)

    def end(self, error: BaseException | None = None) -> None:
        """Nothing more comes."""
        if not self.over:
            self.over, self.error = True, error
            self._tell()

    def _add(self, event: Event) -> None:
        if self._dialect.extra_usage(self._unasked, event):
            self._extra.add(self._gone + len(self.events))
        for choice, finish in self._dialect.finishes(event).items():
            self.finishes[choice] = finish or self.finishes.get(choice)
        # Without the value that was read of it, which takes many times its room.
        self.events.append(Event(event.raw, event.data, event.name))
        self.size += len(event.raw)
        if self.whole:
            self.times.append(asyncio.get_running_loop().time())
            self.whole = self.size <= self._largest
            if not self.whole:
                self.times.clear()
                self._left(self)
        if not self.whole:
            self._forget()
        self._tell()

    def _forget(self) -> None:
        """Let go of what all have read, and of those who have read too little."""
        reading = self._reading()
        if not reading:
            raise Outgrown
        fastest = max(reader.bytes for reader in reading)
        for reader in reading:
            late = self.size - reader.bytes > self._largest
            reader.cut = late and reader.bytes < fastest
        done = min(reader.at for reader in reading if not reader.cut) - self._gone
        del self.events[:done]
        self._gone += done

    async def _room(self) -> None:
        """Wait, where there is too much already that nobody has read."""
        while not self._has_room():
            self._moved.clear()
            await self._moved.wait()

    def _has_room(self) -> bool:
        if self.size <= self._ahead:
            return True
        if self.whole and any(reader.waits for reader in self._readers):
            return True
        read = [reader.bytes for reader in self._reading()]
        return not read or self.size - max(read) <= self._ahead

    def _reading(self) -> list[Reader]:
        return [reader for reader in self._readers if not (reader.cut or reader.waits)]

    def _tell(self) -> None:
        self._news.set()  # wakes all who wait now; who waits from now on waits for the next time
        self._news.clear()

    # The readers

    def join(self) -> Reader:
        """One more who listens, from the beginning."""
        reader = Reader()
        self._readers.add(reader)
        return reader

    async def leave(self, reader: Reader, *, leads: bool = False) -> None:
        """One less; the last one ends the work.

        The one that `leads` answers for what is used. Where its client has left, it leaves when
        that is known, or when its own time is over; else, as after a race that it has lost, at
        once.
        """
        self._readers.discard(reader)
        self._moved.set()
        if self.over or self._task is None:
            return
        if not (self._readers or self._alone):
            self._left(self)
            self.end(asyncio.CancelledError("nobody listens any more"))
            self._task.cancel()
            await shielded(asyncio.wait((self._task,)))
        elif leads and self._record.left:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._deadline.left()):
                    while not self.over:
                        await self._news.wait()

    async def begun(self) -> None:
        """Wait for the first output, or for what became of it instead."""
        while self.reply is None and not self.over:
            await self._news.wait()

    async def ended(self, reader: Reader) -> None:
        """Wait for the end. Raises what went wrong, or `Outgrown`."""
        reader.waits = True
        self._moved.set()
        while self.whole and not self.over:
            await self._news.wait()
        if not self.whole:
            raise Outgrown
        if self.error:
            raise same(self.error)

    async def read(self, reader: Reader, call: Call) -> AsyncIterator[Event]:
        """What was said so far, then the rest, for this call's client. Raises what went wrong."""
        read = 0
        while True:
            while not reader.cut and reader.at < self._gone + len(self.events):
                number, event = reader.at, self.events[reader.at - self._gone]
                reader.at += 1
                reader.bytes += len(event.raw)
                self._moved.set()
                if number not in self._extra or not call.dialect.extra_usage(call, event):
                    yield event
                read += 1
                if read % _AT_ONCE == 0:
                    await asyncio.sleep(0)
            if reader.cut:
                raise Overloaded(
                    "you read this answer too slowly for it to be shared with others; ask again",
                    code="reader_too_slow",
                )
            if self.over:
                if self.error:
                    raise same(self.error)
                return
            await self._news.wait()


def same(error: BaseException) -> BaseException:
    """The same failure for one more client: what is told of it differs from one to the next."""
    if not isinstance(error, CallError):
        return error
    other = copy.copy(error.__dict__)
    twin = error.__class__.__new__(error.__class__, *error.args)
    twin.__dict__.update(other, headers=dict(error.headers))
    return twin
