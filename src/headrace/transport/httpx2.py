"""HTTP through httpx2: the one that is always there.

Of httpx2 this uses the connection, which is httpcore2's, and neither client nor pool. The pool goes
through all its connections for every request, and hands out what it should have thrown away.
"""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
import weakref
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from typing import Any, SupportsIndex
from urllib.parse import urlsplit

import httpcore2

from headrace.transport import Request, Response, Transport
from headrace.transport.decoding import INFLATED, decoded
from headrace.transport.wire import HEAD, KEPT, accepted, failure, trusting


class Httpx2(Transport):
    """Asks upstreams through httpx2. `tls` is how they are verified, if not by this machine."""

    name = "httpx2"

    def __init__(self, *, tls: ssl.SSLContext | None = None, inflated: int = INFLATED) -> None:
        self._tls = tls or trusting()
        self._inflated = inflated
        self._kept: dict[str, dict[_Connection, asyncio.TimerHandle]] = defaultdict(dict)
        self._all: weakref.WeakSet[_Connection] = weakref.WeakSet()

    async def send(self, request: Request, *, connect: float, idle: float) -> Response:
        """Send `request`; `connect` and `idle` are seconds. Returns when the headers are there."""
        origin = httpcore2.URL(request.url).origin
        if connection := self._take(origin):
            try:
                return await self._ask(connection, request, idle)
            except _Died:
                pass  # it had ended before it was asked
        connection = _Connection(origin, await _open(origin, self._tls, connect))
        self._all.add(connection)
        return await self._ask(connection, request, idle)

    async def aclose(self) -> None:
        """Close every connection."""
        connections = list(self._all)  # held, or forgetting the kept ones would lose them unclosed
        for kept in self._kept.values():
            for expiry in kept.values():
                expiry.cancel()
        self._kept.clear()
        for connection in connections:
            await connection.aclose()

    async def _ask(self, connection: _Connection, request: Request, idle: float) -> Response:
        waits: dict[str, float | None] = {}
        wire = connection.wire
        wire.head = wire.taken
        try:
            response = await connection.handle_async_request(_outgoing(request, waits))
        except (httpcore2.RemoteProtocolError, httpcore2.ReadError) as error:
            if not wire.over:
                raise failure("upstream_protocol") from error
            if connection.reused and wire.taken == wire.head:
                raise _Died from error
            raise failure("connection_lost") from error
        wire.head = None
        waits["read"] = idle  # not before: waiting for the head is the attempt's business
        try:
            return _Answer(response, connection, self._inflated, self._keep)
        except BaseException:
            await connection.aclose()
            raise

    def _take(self, origin: httpcore2.Origin) -> _Connection | None:
        """The connection used last that has said nothing since."""
        kept = self._kept[str(origin)]
        while kept:
            connection, expiry = kept.popitem()
            expiry.cancel()
            if not connection.has_expired():
                connection.reused = True
                return connection
            connection.wire.abort()
        return None

    def _keep(self, connection: _Connection) -> None:
        kept = self._kept[str(connection.origin)]

        def expire() -> None:
            del kept[connection]
            connection.wire.abort()

        kept[connection] = asyncio.get_running_loop().call_later(KEPT, expire)


class _Answer:
    """An answer on a connection that is kept if all of it was read."""

    def __init__(
        self,
        response: httpcore2.Response,
        connection: _Connection,
        inflated: int,
        keep: Callable[[_Connection], None],
    ) -> None:
        self.status = response.status
        self.headers, self._encoding = accepted(response.status, response.headers)
        self._response = response
        self._connection = connection
        self._inflated = inflated
        self._keep = keep
        self._closed = False

    def chunks(self) -> AsyncGenerator[bytes, None]:
        return decoded(self._pieces(), self._encoding, self._inflated)

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        try:
            async with aclosing(self._response.aiter_stream()) as pieces:
                async for piece in pieces:
                    yield piece
        except httpcore2.ReadTimeout as error:
            raise failure("idle_timeout") from error
        except (httpcore2.RemoteProtocolError, httpcore2.ReadError) as error:
            over = self._connection.wire.over
            raise failure("upstream_truncated" if over else "upstream_protocol") from error
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self._response.aclose()
        if self._connection.is_idle():
            self._keep(self._connection)


class _Died(Exception):
    """A kept-alive connection ended before it answered."""


class _Connection(httpcore2.AsyncHTTP11Connection):
    """A connection that is not used again once it said more than it was asked."""

    def __init__(self, origin: httpcore2.Origin, wire: _Wire) -> None:
        super().__init__(origin, wire)
        self.origin = origin
        self.wire = wire
        self.reused = False

    async def _response_closed(self) -> None:
        # httpcore2 would leave bytes beyond an answer to h11, as the answer to the next request.
        if self._h11_state.trailing_data[0]:
            await self.aclose()
        else:
            await super()._response_closed()


class _Wire(httpcore2.AsyncNetworkStream):
    """A socket as httpcore2 reads and writes it, which knows how much came, and when it ended."""

    def __init__(self, reader: _Reader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.taken = 0
        """How many bytes have been read."""
        self.head: int | None = None
        """How many had been read before the head that is awaited."""
        self.over = False
        """Whether the end has been read."""

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self.head is not None and self.taken - self.head > HEAD:  # so interim answers end
            raise httpcore2.RemoteProtocolError("the head is too long")
        try:
            async with asyncio.timeout(timeout):
                data = await self._reader.read(max_bytes)
        except TimeoutError as error:
            raise httpcore2.ReadTimeout from error
        self.taken += len(data)
        self.over = not data
        if self.over and self._reader.error:
            raise httpcore2.ReadError from self._reader.error
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            self._writer.write(buffer)
            await self._writer.drain()
        except OSError as error:
            raise httpcore2.WriteError from error

    async def aclose(self) -> None:
        self.abort()

    def abort(self) -> None:
        # Closing in order would first send what is left of the request, or wait for TLS.
        self._writer.transport.abort()

    def get_extra_info(self, info: str) -> bool | None:
        if info != "is_readable":  # or over: what httpcore2 asks of a connection that was kept
            return None
        if self._reader.fed > self.taken or self._reader.at_eof():
            return True
        poll = select.poll()
        poll.register(self._writer.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))


class _Reader(asyncio.StreamReader):
    """What has come and was not read yet; an error comes after it, not in its place."""

    fed = 0
    error: Exception | None = None

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:  # bytes, says asyncio
        arrived = bytes(data)
        self.fed += len(arrived)
        super().feed_data(arrived)

    def set_exception(self, exc: Exception) -> None:
        self.error = exc
        self.feed_eof()


async def _open(origin: httpcore2.Origin, tls: ssl.SSLContext, connect: float) -> _Wire:
    host = origin.host.decode()
    loop = asyncio.get_running_loop()
    secure = origin.scheme == b"https"
    options: dict[str, Any] = {}
    if isinstance(loop, asyncio.BaseEventLoop):  # uvloop cannot try addresses side by side
        options["happy_eyeballs_delay"] = 0.25
    reader = _Reader()
    try:
        async with asyncio.timeout(connect):
            transport, protocol = await loop.create_connection(
                lambda: asyncio.StreamReaderProtocol(reader),
                host,
                origin.port,
                ssl=tls if secure else None,
                server_hostname=host if secure else None,
                **options,
            )
    except TimeoutError as error:
        raise failure("connect_timeout") from error
    except socket.gaierror as error:
        raise failure("dns_failed") from error
    except ssl.SSLError as error:
        raise failure("tls_failed") from error
    except OSError as error:
        raise failure("connect_failed") from error
    return _Wire(reader, asyncio.StreamWriter(transport, protocol, reader, loop))


def _outgoing(request: Request, waits: dict[str, float | None]) -> httpcore2.Request:
    given = {name.lower() for name, _ in request.headers}
    headers = list(request.headers)
    if "host" not in given:
        headers.insert(0, ("host", urlsplit(request.url).netloc.rpartition("@")[2]))
    if "content-length" not in given and (request.body or request.method not in ("GET", "HEAD")):
        headers.append(("content-length", str(len(request.body))))
    return httpcore2.Request(
        request.method,
        request.url,
        headers=[(name.encode(), value.encode()) for name, value in headers],
        content=request.body,
        extensions={"timeout": waits},
    )
