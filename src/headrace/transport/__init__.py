"""How bytes reach an upstream and come back: the contract that every HTTP client here keeps.

A transport opens connections, sends one request and hands over the answer as it arrives. It
follows no redirect, decodes no JSON and tries nothing twice, but for a kept-alive connection that
had died before the request: that is tried once more on a fresh one. All failures are
`UpstreamError` with one of these codes:

| code | when |
|---|---|
| `dns_failed`, `connect_failed`, `connect_timeout`, `tls_failed` | no connection |
| `connection_lost` | it ended before the answer's headers |
| `upstream_protocol` | what came is not HTTP, or headers beyond 64 KiB or 100 lines |
| `idle_timeout` | nothing came for `idle` seconds in the middle of the body |
| `upstream_truncated` | the body ended before its declared end |
| `upstream_encoding`, `upstream_too_large` | a body that cannot be inflated, or not within bounds |

Deadlines over the whole call and for the first event belong to the attempt, which cancels: a
cancelled `send` or a closed `Response` that was not read to its end closes the socket.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Protocol

from starlette.datastructures import Headers

from headrace.given import given


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What is sent: an absolute URL, used as it is, and headers in order.

    `Host` and `Content-Length` are added where they are missing, and nothing else.
    """

    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


class Response(Protocol):
    """What came back: status and headers at once, the body as it arrives.

    The headers say nothing of a content encoding, for the body has none any more.
    """

    status: int
    headers: Headers

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it is read, content encoding undone; ends cleanly only when complete."""

    async def aclose(self) -> None:
        """Give the connection back if the body was read to its end, else close it. Idempotent."""


class Transport(Protocol):
    """One HTTP client with its pool of connections."""

    name: str

    @staticmethod
    def of_server() -> Transport:
        """The transport of the gateway that is being built; outside of one, a new one."""
        return given(Transport) or best()

    async def send(self, request: Request, *, connect: float, idle: float) -> Response:
        """Send `request`; `connect` and `idle` are seconds. Returns when the headers are there."""

    async def aclose(self) -> None:
        """Close every connection."""


def best() -> Transport:
    """A new transport: aiohttp where it is installed (`headrace[standard]`), else httpx2."""
    if find_spec("aiohttp"):
        from headrace.transport.aiohttp import Aiohttp

        return Aiohttp()
    from headrace.transport.httpx2 import Httpx2

    return Httpx2()
