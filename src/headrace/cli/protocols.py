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

HEAD_TIMEOUT = 10.0
"""Seconds from the first byte of a head, or from connecting, to its end."""
WRITE_STALL = 60.0
"""Seconds that a client may read nothing while something is there to be read."""

if TYPE_CHECKING:
    Protocol = asyncio.Protocol
else:
    Protocol = object


class _Bounded(Protocol):
    """Closes a connection whose request head does not arrive in time, or whose answer stays."""

    write_stall = WRITE_STALL
    _head_timer: asyncio.TimerHandle | None = None
    _stall_timer: asyncio.TimerHandle | None = None

    def head_is_due(self) -> bool:
        """Whether a head has begun, or must begin, and is not whole yet."""
        raise NotImplementedError

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._head_timer = asyncio.get_running_loop().call_later(HEAD_TIMEOUT, transport.abort)

    def data_received(self, data: bytes) -> None:
        """Wait on, or no more."""
        super().data_received(data)
        if not self.head_is_due():
            self._stop_waiting()
        elif self._head_timer is None:
            transport: Any = self.transport  # type: ignore[attr-defined]
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

        def head_is_due(self) -> bool:
            """The parser tells where a head begins and ends."""
            return self._in_head

        def on_message_begin(self) -> None:
            """A head begins."""
            self._in_head = True
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            """It is whole."""
            self._in_head = False
            super().on_headers_complete()

    return BoundedHttpTools
