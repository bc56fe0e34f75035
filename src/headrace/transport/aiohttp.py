"""HTTP through aiohttp: the fast one.

aiohttp is watched closely, because by itself it asks twice where that is not safe, takes bytes
beyond one answer for the next one, and waits for ever for the rest of a body that is not HTTP.
"""

from __future__ import annotations

import asyncio
import functools
import io
import select
import ssl
from collections.abc import AsyncGenerator, Callable

import aiohttp
import yarl
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http import HttpProcessingError, RawResponseMessage
from aiohttp.tracing import Trace

from headrace.transport import Request, Response, Transport
from headrace.transport.decoding import INFLATED, decoded
from headrace.transport.wire import HEAD, KEPT, LINES, accepted, failure, trusting

_BUFFER = 64 * 1024  # reading pauses at twice that
_LARGE = 1024 * 1024  # beyond it aiohttp warns of bytes that are sent at once


class Aiohttp(Transport):
    """Asks upstreams through aiohttp. `tls` is how they are verified, if not by this machine."""

    name = "aiohttp"

    def __init__(self, *, tls: ssl.SSLContext | None = None, inflated: int = INFLATED) -> None:
        self._tls = tls or trusting()
        self._inflated = inflated
        self._kept: aiohttp.ClientSession | None = None
        self._fresh: aiohttp.ClientSession | None = None

    async def send(self, request: Request, *, connect: float, idle: float) -> Response:
        """Send `request`; `connect` and `idle` are seconds. Returns when the headers are there."""
        if self._kept is None or self._fresh is None:  # needs the loop, so not before
            self._kept, self._fresh = self._session(kept=True), self._session(kept=False)
        try:
            try:
                response = await _ask(self._kept, request, connect)
            except _Died:
                response = await _ask(self._fresh, request, connect)
        except aiohttp.ClientConnectorDNSError as error:
            raise failure("dns_failed") from error
        except aiohttp.ClientSSLError as error:
            raise failure("tls_failed") from error
        except aiohttp.ConnectionTimeoutError as error:
            raise failure("connect_timeout") from error
        except (aiohttp.ClientConnectorError, aiohttp.InvalidURL) as error:
            raise failure("connect_failed") from error
        except aiohttp.ClientResponseError as error:
            raise failure("upstream_protocol") from error
        except aiohttp.ClientError as error:
            raise failure("connection_lost") from error
        try:
            return _Answer(response, idle, self._inflated)
        except BaseException:
            response.close()
            response.wire.close()  # it may be back in the pool already
            raise

    async def aclose(self) -> None:
        """Close every connection."""
        for session in filter(None, (self._kept, self._fresh)):
            await session.close()
        self._kept = self._fresh = None

    def _session(self, *, kept: bool) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=_Pool(self._tls, kept=kept),
            cookie_jar=aiohttp.DummyCookieJar(),
            response_class=_Asked,
            skip_auto_headers=("accept", "accept-encoding", "content-type", "user-agent"),
            auto_decompress=False,
            trust_env=False,
            read_bufsize=_BUFFER,
            max_field_size=HEAD,
            max_headers=LINES,
        )


async def _ask(session: aiohttp.ClientSession, request: Request, connect: float) -> _Asked:
    body = io.BytesIO(request.body) if len(request.body) > _LARGE else request.body
    response = await session.request(
        request.method,
        yarl.URL(request.url, encoded=True),
        headers=request.headers,
        data=body or None,
        allow_redirects=False,
        timeout=aiohttp.ClientTimeout(total=None, connect=connect),
    )
    assert isinstance(response, _Asked)
    return response


class _Answer:
    """An answer of aiohttp's, which gives its connection back itself once all of it has come."""

    def __init__(self, response: aiohttp.ClientResponse, idle: float, inflated: int) -> None:
        self.status = response.status
        self.headers, self._encoding = accepted(response.status, response.raw_headers)
        self._response = response
        self._idle = idle
        self._inflated = inflated

    def chunks(self) -> AsyncGenerator[bytes, None]:
        return decoded(self._pieces(), self._encoding, self._inflated)

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        content = self._response.content
        try:
            while True:
                async with asyncio.timeout(self._idle):
                    piece = await content.readany()
                if not piece:
                    return
                yield piece
        except TimeoutError as error:
            raise failure("idle_timeout") from error
        except HttpProcessingError as error:
            raise failure("upstream_protocol") from error
        except aiohttp.ClientError as error:
            raise failure("upstream_truncated") from error
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        self._response.close()


class _Died(aiohttp.ClientConnectionError):
    """A kept-alive connection ended before it answered."""


class _Lost(aiohttp.ClientConnectionError):
    """A connection ended before its answer's head was complete."""


class _Asked(aiohttp.ClientResponse):
    """Tells the two apart, and keeps aiohttp from asking twice of its own accord.

    It would do that for GET and its like, even if part of the answer had come.
    """

    wire: _Wire

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        assert isinstance(connection.protocol, _Wire)
        self.wire = connection.protocol
        try:
            return await super().start(connection)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            raise _Lost if self.wire.heard or not self.wire.reused else _Died from error


class _Pool(aiohttp.TCPConnector):
    """Hands out connections that are new, or have said nothing since their last answer."""

    def __init__(self, tls: ssl.SSLContext, *, kept: bool) -> None:
        super().__init__(
            ssl=tls,
            limit=0,
            ttl_dns_cache=30,
            force_close=not kept,
            keepalive_timeout=KEPT if kept else None,
        )
        # There is no public way to say what a connection is made of.
        make: Callable[..., ResponseHandler] = _Wire
        self._factory = functools.partial(make, loop=self._loop)

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        while True:
            connection = await super().connect(req, traces, timeout)
            assert isinstance(connection.protocol, _Wire)
            if connection.protocol.ready():
                return connection
            connection.close()


class _Wire(ResponseHandler):
    """One connection, watched for what aiohttp overlooks."""

    reused = False
    heard = 0  # bytes that came since the request, up to the answer's head
    _used = False
    _body: aiohttp.StreamReader | None = None

    def ready(self) -> bool:
        """Make ready for a request; False if anything came that nobody asked for, or the end."""
        if self._used and (self.should_close or _readable(self.transport)):
            return False
        self.reused, self._used = self._used, True
        self.heard, self._body = 0, None
        return True

    def data_received(self, data: bytes) -> None:
        if data and self._body is not None and self._body.is_eof():
            self.close()  # bytes beyond the answer, or while nothing is asked
            return
        if self._body is None:
            self.heard += len(data)
        super().data_received(data)
        if self._body is None and self.heard > HEAD:  # or interim answers would never end
            self.set_exception(HttpProcessingError(message="the head is too long"))
        if error := self.exception():
            self._fail(error)  # else the reader of a body that is not HTTP would never know

    def feed_data(
        self, data: tuple[RawResponseMessage, aiohttp.StreamReader], size: int = 0
    ) -> None:
        message, body = data
        if message.code >= 200:
            self._body = body
        super().feed_data(data, size)

    def connection_lost(self, exc: BaseException | None) -> None:
        if exc is not None:
            # A body without a length ends with its connection, but not with a reset.
            self._fail(aiohttp.ClientPayloadError("reset"))
        super().connection_lost(exc)

    def _fail(self, error: BaseException) -> None:
        if self._body is not None and not self._body.is_eof():
            self._body.set_exception(error)

    def close(self) -> None:
        # Closing in order would first send what is left of the request, or wait for TLS.
        self.abort()


def _readable(transport: asyncio.Transport | None) -> bool:
    if transport is None:
        return True
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
    return bool(poll.poll(0))
