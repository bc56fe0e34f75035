"""What both transports have in common: TLS, the heads of answers, and what failures are called."""

from __future__ import annotations

import ssl
from collections.abc import Iterable

from starlette.datastructures import Headers

from headrace.errors import UpstreamError

HEAD = 64 * 1024
"""How many bytes the head of an answer may have."""
LINES = 100
"""How many header lines an answer may have."""
KEPT = 60.0
"""For how many seconds a connection is kept for the next request."""

# code: what a client is told, its status, whether the same upstream may do better a moment later.
_FAILURES = {
    "dns_failed": ("the upstream's name cannot be resolved", 502, True),
    "connect_failed": ("the upstream takes no connection", 502, True),
    "connect_timeout": ("the upstream took no connection in time", 504, True),
    "tls_failed": ("the upstream's identity cannot be verified, or it speaks no TLS", 502, False),
    "connection_lost": ("the upstream ended the connection without an answer", 502, True),
    "upstream_protocol": ("the upstream's answer is not the HTTP it should be", 502, True),
    "idle_timeout": ("the upstream fell silent in the middle of its answer", 504, True),
    "upstream_truncated": ("the upstream's answer broke off", 502, True),
}


def failure(code: str, found: str = "") -> UpstreamError:
    """The error of this code. It names no host: it is told to clients."""
    message, status, again = _FAILURES[code]
    return UpstreamError(
        f"{message}: {found}" if found else message, code=code, status=status, again=again
    )


def trusting() -> ssl.SSLContext:
    """TLS 1.2 or later, for certificates that this machine's authorities vouch for."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def accepted(status: int, lines: Iterable[tuple[bytes, bytes]]) -> tuple[Headers, str]:
    """The headers of an answer and its content encoding, which they no longer name.

    Raises `UpstreamError` `upstream_protocol` for a head that goes beyond its limits, or that two
    readers could read in two ways.
    """
    raw = [(name.lower(), value) for name, value in lines]
    headers = Headers(raw=raw)
    if not 200 <= status <= 599:
        raise failure("upstream_protocol", f"its status is {status}")
    if len(raw) > LINES:
        raise failure("upstream_protocol", f"it has more than {LINES} header lines")
    if sum(len(name) + len(value) + 4 for name, value in raw) > HEAD:
        raise failure("upstream_protocol", f"its headers have more than {HEAD} bytes")
    if "content-length" in headers and "transfer-encoding" in headers:
        raise failure("upstream_protocol", "it says its length in two ways")  # RFC 9112, 6.3
    encoding = ", ".join(headers.getlist("content-encoding"))
    if "content-encoding" in headers:
        encoded = (b"content-encoding", b"content-length")
        headers = Headers(raw=[line for line in raw if line[0] not in encoded])
    return headers, encoding
