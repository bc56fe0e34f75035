"""What the edge takes from a client, and what it refuses before anybody is asked."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import unquote

from starlette.datastructures import Headers
from starlette.types import Scope

from headrace.errors import BadRequest, TooLarge, UnsupportedMedia


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What the edge takes from a client, in bytes, lines and seconds."""

    body: int = 32 * 1000 * 1000
    headers: int = 64 * 1024
    header_lines: int = 100
    path: int = 8 * 1024
    read: float = 30.0
    """For the whole body of a request to arrive."""
    write_stall: float = 60.0
    """For a client that reads nothing of its answer."""


def check_head(scope: Scope, headers: Headers, path: str, bounds: Bounds) -> None:
    """Refuse what no honest client sends. Raises `CallError`."""
    target = len(scope.get("raw_path") or path) + len(scope.get("query_string", b""))
    if target > bounds.path:
        raise _refusal(414, f"the URL is longer than {bounds.path} bytes", "url_too_long")
    size = sum(len(name) + len(value) for name, value in headers.raw)
    if size > bounds.headers or len(headers.raw) > bounds.header_lines:
        raise _refusal(
            431,
            f"the headers are beyond {bounds.headers} bytes or {bounds.header_lines} lines",
            "headers_too_large",
        )
    segments = {segment.partition(";")[0] for segment in re.split("[/\\\\]", unquote(path))}
    if not path.isprintable() or "\\" in path or {".", ".."} & segments:
        raise BadRequest("the path holds what no path of an API holds", code="invalid_path")
    if len(headers.getlist("host")) > 1:
        raise BadRequest("the request names two hosts", code="invalid_host")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMedia(
            "the body is compressed; send it without content-encoding", code="content_encoding"
        )
    length = headers.get("content-length", "0")
    if length.isdecimal() and int(length[:20]) > bounds.body:
        raise too_large(bounds.body)


def check_media(headers: Headers) -> None:
    """A browser asks before it sends JSON to another site, so nothing else is taken as JSON."""
    media = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json" and not media.endswith("+json"):
        raise UnsupportedMedia(
            "the body must be JSON with content-type: application/json, "
            f"found {repr(media[:80]) if media else 'none'}",
            code="content_type",
        )


def check_site(headers: Headers) -> None:
    """Refuse what a page of another site sends without having to ask (fetch.spec.whatwg.org,
    "CORS-safelisted request"): nothing of it is a key."""
    keys = ("authorization", "x-api-key", "api-key")
    if headers.get("sec-fetch-site") == "cross-site" and not any(key in headers for key in keys):
        raise _refusal(403, "a page of another site may not ask here", "cross_site")


def check_local(headers: Headers) -> None:
    """Refuse a host that is not this machine: a name that was bent to it (DNS rebinding)."""
    host = headers.get("host", "localhost")
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    if name == "localhost" or name.endswith(".localhost"):
        return
    try:
        if ipaddress.ip_address(name.strip("[]")).is_loopback:
            return
    except ValueError:
        pass
    raise _refusal(
        403,
        "without a key this gateway answers for this machine alone, as localhost or 127.0.0.1; "
        "for other names have its chain authenticate, or write 'server: {auth: none}'",
        "foreign_host",
    )


def too_large(limit: int) -> TooLarge:
    """The error for a body beyond `limit` bytes."""
    return TooLarge(f"the request's body is larger than {limit} bytes")


def _refusal(status: int, message: str, code: str) -> BadRequest:
    error = BadRequest(message, code=code)
    error.status = status
    return error
