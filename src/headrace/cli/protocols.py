"""uvicorn's HTTP protocols with a bound on how long a client may let them wait.

uvicorn itself waits for ever for a head that comes a byte at a time (slow loris), and for a client
that reads nothing of its answer, even when the edge has given it up; the body of a request is
bounded at the edge.
"""

from __future__ import annotations

import asyncio
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from headrace.dialect import OPENAI
from headrace.errors import BadRequest

HEAD_TIMEOUT = 10.0
"""Seconds from the first byte of a head, or from connecting, to its end."""
HEAD_SIZE = 64 * 1024
"""Bytes of a head that is not whole yet, beyond which it is not waited for."""
MOST_TRAILERS = 100
MOST_PIPELINED = 8
WRITE_STALL = 60.0
"""Seconds that a client may read nothing while something is there to be read."""

_SAID = OPENAI.error(
    BadRequest(f"the headers are beyond {HEAD_SIZE} bytes", code="headers_too_large")
)
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (len(_SAID), _SAID)
)

if TYPE_CHECKING:
    Protocol = asyncio.Protocol
else:
    Protocol = object


class _Bounded(Protocol):
    """Closes a connection whose request head does not arrive in time, or whose answer stays."""

    write_stall = WRITE_STALL
    _head_timer: asyncio.TimerHandle | None = None
    _head_size = 0
    _stall_timer: asyncio.TimerHandle | None = None

    def head_is_due(self) -> bool:
        """Whether a head has begun, or must begin, and is not whole yet."""
        raise NotImplementedError

    def in_head(self) -> bool:
        """Whether a head has begun and is not whole yet."""
        return self.head_is_due()

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._head_timer = asyncio.get_running_loop().call_later(HEAD_TIMEOUT, transport.abort)

    def data_received(self, data: bytes) -> None:
        """Wait on, or no more."""
        super().data_received(data)
        if not self.head_is_due():
            self._stop_waiting()
            return
        transport: Any = self.transport  # type: ignore[attr-defined]
        # What still comes of a body that was refused is no head, and is let run out.
        self._head_size += len(data) if self.in_head() else 0
        if self._head_size > HEAD_SIZE:
            transport.write(_TOO_LARGE)
            transport.close()
        elif self._head_timer is None:
            loop = asyncio.get_running_loop()
            self._head_timer = loop.call_later(HEAD_TIMEOUT, transport.abort)

    def pause_writing(self) -> None:
        """The client does not keep up; it has so long to go on."""
        super().pause_writing()
        transport: Any = self.transport  # type: ignore[attr-defined]
        loop = asyncio.get_running_loop()
        # Aborted, for what is closed in order first sends what nobody takes.
        self._stall_timer = loop.call_later(self.write_stall, transport.abort)

    def resume_writing(self) -> None:
        """It has gone on."""
        self._stop_stalling()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing to wait for."""
        self._stop_waiting()
        self._stop_stalling()
        super().connection_lost(exc)

    def _stop_waiting(self) -> None:
        self._head_size = 0
        if self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_stalling(self) -> None:
        if self._stall_timer:
            self._stall_timer.cancel()
            self._stall_timer = None


class BoundedH11(_Bounded, H11Protocol):
    """The protocol in pure Python."""

    def head_is_due(self) -> bool:
        """h11 stays idle until a head is whole."""
        return self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])


def bounded(write_stall: float = WRITE_STALL) -> type[asyncio.Protocol]:
    """The best protocol there is here."""
    best = _best()
    return type(best.__name__, (best,), {"write_stall": write_stall})


def _best() -> type[_Bounded]:
    if find_spec("httptools") is None:
        return BoundedH11
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    class BoundedHttpTools(_Bounded, HttpToolsProtocol):
        """The protocol on Node's parser."""

        _in_head = True
        _trailers = 0

        def head_is_due(self) -> bool:
            """The parser tells where a head begins and ends; between two calls one is due, too."""
            cycle: Any = self.cycle
            return self._in_head or cycle is None or cycle.response_complete

        def in_head(self) -> bool:
            """Between a head's begin and its end."""
            return self._in_head

        def on_header(self, name: bytes, value: bytes) -> None:
            """A line of the head; one of a trailer is never taken for one (RFC 9110, 6.5.1)."""
            if self._in_head:
                super().on_header(name, value)
                return
            self._trailers += 1
            if self._trailers > MOST_TRAILERS:
                self.transport.abort()

        def on_message_begin(self) -> None:
            """A head begins."""
            self._in_head = True
            self._trailers = 0
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            """It is whole."""
            self._in_head = False
            before: Any = self.cycle
            super().on_headers_complete()
            if before and not before.response_complete:
                self._waiting.append(before)
                # Read on, or nobody notices that the client leaves while it waits for several.
                self.flow.resume_reading()
                if len(self._waiting) > MOST_PIPELINED:
                    self.transport.abort()

        def connection_made(self, transport: Any) -> None:
            """One client, with one call at a time or several in a row."""
            self._waiting: list[Any] = []
            super().connection_made(transport)

        def connection_lost(self, exc: Exception | None) -> None:
            """Every call of this client is told, not only the last."""
            super().connection_lost(exc)
            self.pipeline.clear()
            for cycle in self._waiting:
                cycle.disconnected = True
                cycle.message_event.set()

    return BoundedHttpTools
