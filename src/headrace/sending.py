"""What goes out to the client of one request: a head, a body, and pings while nothing comes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from starlette.types import Message, Send

from headrace.record import Record
from headrace.telling import telling

_PING = b": ping\n\n"
_BETWEEN_EVENTS = (b"\n\n", b"\r\n\r\n", b"\r\r")


@dataclass(frozen=True, kw_only=True)
class Pings:
    """How a silent stream of events is kept open, in seconds; None is not at all.

    A ping is a comment, which clients pass over (html.spec.whatwg.org, 9.2.7: "authors can include
    a comment line every 15 seconds or so").
    """

    every: float | None = None
    """After how long without anything sent."""
    early: float | None = None
    """After how long a stream begins that has nothing to say yet."""


class ClientGone(Exception):
    """The client left."""


class Sending:
    """The way out of one request.

    `give_up` is called once the client has read nothing for `stall` seconds.
    """

    def __init__(
        self,
        send: Send,
        record: Record,
        *,
        stall: float,
        pings: Pings,
        give_up: Callable[[], object],
    ) -> None:
        self.started = False
        """Whether the head is out, or on its way."""
        self._send = send
        self._record = record
        self._stall = stall
        self._pings = pings
        self._give_up = give_up
        self._loop = asyncio.get_running_loop()
        self._since: float | None = None
        """Since when a message waits for the client."""
        self._last = 0.0
        """When the last one was sent."""
        self._tail = b""
        """What was sent last, the end of it."""
        self._ping_at: asyncio.TimerHandle | None = None
        self._beside: asyncio.Task[None] | None = None
        """Sends what nobody waits for."""
        self._check_stall()

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the head, which tells what happened so far as well."""
        self.started = True
        await self._sent(self._head(status, headers))
        self._tail = _BETWEEN_EVENTS[0]
        if headers.get("content-type", "").startswith("text/event-stream"):
            self._ping_later()

    def start_early(self, headers: Mapping[str, str]) -> None:
        """Begin a stream that has nothing to say yet, as a success, whatever comes."""
        self.started = True
        self._beside = asyncio.create_task(self._begin(headers))

    async def write(self, body: bytes) -> None:
        """Send a part of the body."""
        await self._sent(_body(body))

    async def finish(self, body: bytes) -> None:
        """Send the end of it."""
        self._ping_no_more()
        await self._sent(_body(body, more=False))

    async def aclose(self) -> None:
        """Send nothing more."""
        self._stall_at.cancel()
        self._ping_no_more()
        if self._beside:
            self._beside.cancel()
            await asyncio.wait((self._beside,))
            if not self._beside.cancelled():
                self._beside.exception()  # that nobody is there is known

    def _head(self, status: int, headers: Mapping[str, str]) -> Message:
        self._record.status = status
        self._record.first_byte = time.monotonic()
        lines = {**headers, **telling(self._record)}
        raw = [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in lines.items()
            if value.isprintable() and value.isascii()
        ]
        return {"type": "http.response.start", "status": status, "headers": raw}

    async def _begin(self, headers: Mapping[str, str]) -> None:
        await self._put(self._head(200, headers))
        await self._put(_body(_PING))
        self._ping_later()

    async def _sent(self, message: Message) -> None:
        beside, self._beside = self._beside, None
        if beside:
            await beside
        await self._put(message)

    async def _put(self, message: Message) -> None:
        self._since = self._last = self._loop.time()
        self._tail = (self._tail + message.get("body", b"")[-4:])[-4:]
        try:
            await self._send(message)
        except OSError as gone:  # some servers tell it so
            raise ClientGone(str(gone)) from gone
        self._since = None

    # While nothing comes

    def _check_stall(self) -> None:
        """Give up if the client has read nothing for too long; else look again later.

        One timer for a whole stream: a time-out around each event would cost more than the event.
        """
        since = self._since
        left = self._stall - (self._loop.time() - since if since else 0)
        if left > 0:
            self._stall_at = self._loop.call_later(left, self._check_stall)
        else:
            self._give_up()

    def _ping_later(self) -> None:
        if every := self._pings.every:
            silent = self._loop.time() - self._last
            left = every - silent if silent < every else every
            self._ping_at = self._loop.call_later(left, self._ping, every)

    def _ping(self, every: float) -> None:
        """Send one if nothing was sent for so long, and no event is halfway out."""
        silent = self._loop.time() - self._last >= every and self._since is None
        if silent and self._tail.endswith(_BETWEEN_EVENTS):
            self._beside = asyncio.create_task(self._put(_body(_PING)))
        self._ping_later()

    def _ping_no_more(self) -> None:
        if self._ping_at:
            self._ping_at.cancel()
        self._pings = Pings()


def _body(body: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}
