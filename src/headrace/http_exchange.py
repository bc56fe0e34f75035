"""One HTTP exchange with an upstream: a call sent, its answer received. What forwarders share.

Only what is listed here crosses the gateway, in either direction: hop-by-hop headers (RFC 9110,
7.6.1), the client's credentials and its identity stay behind.
"""

from __future__ import annotations

import asyncio
import email.utils
import math
import re
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import orjson
from starlette.datastructures import Headers

from headrace.call import PASSTHROUGH, Call, Limits, Outgoing, Timeouts
from headrace.errors import BadRequest, UpstreamError
from headrace.framing import NDJSON, SSE, Decoder
from headrace.reply import Event, Framing, Reply
from headrace.transport import Request, Response, Transport
from headrace.version import __version__

_SENT = {
    *("content-type", "accept", "traceparent", "tracestate", "idempotency-key", "cdn-loop"),
    *("anthropic-version", "anthropic-beta"),
}
# Retry-After is not among them: what of it is usable goes with the error, see `retry_after`.
_RETURNED = {"content-type"}
_RETURNED_PREFIXES = ("openai-", "x-ratelimit-")
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_ERROR_BODY = 64 * 1024
_AT_ONCE = 32
_LONGEST_HEADER = 1024
_LONGEST_RETRY_AFTER = 3600.0


async def exchange(
    call: Call,
    transport: Transport,
    *,
    base_url: str,
    path: str,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """Send `call` to `path` below `base_url` and return the reply when its headers are there.

    `headers` are the upstream's own, such as its key. Raises `UpstreamError` for a failed exchange
    and for any status of 300 or more.
    """
    timeouts = call.told(Timeouts) or Timeouts()
    limits = call.told(Limits) or Limits()
    request = Request(
        method=call.method,
        url=_url(base_url, path, call.query if call.operation == PASSTHROUGH else ""),
        headers=tuple({**_outgoing(call), **(headers or {})}.items()),
        body=call.body,
    )
    response = await transport.send(request, connect=timeouts.connect, idle=timeouts.idle)
    try:
        if response.status >= 300:
            raise await _refusal(response)
        framing = _framing(call, response)
    except BaseException:
        await response.aclose()
        raise
    reply = Reply(
        _events(response, framing, limits),
        status=response.status,
        headers=_incoming(response.headers),
        framing=framing,
    )
    return reply.on_close(lambda _: response.aclose())


def _url(base_url: str, path: str, query: str) -> str:
    """The address to ask, at the declared origin and nowhere else."""
    base = base_url.rstrip("/")
    url = base + quote(path, safe="/:@!$&'()*+,;=~-._") + (f"?{query}" if query else "")
    if urlsplit(url)[:2] != urlsplit(base)[:2] or not path.startswith("/"):
        raise BadRequest("this path leads away from its upstream", code="invalid_path")
    return url


def _outgoing(call: Call) -> dict[str, str]:
    sent = {
        name: value.strip()
        for name, value in call.headers.items()
        if name in _SENT or name.startswith("openai-")
    }
    if call.body:
        sent.setdefault("content-type", "application/json")
    client = call.headers.get("user-agent", "")
    sent["user-agent"] = f"headrace/{__version__} {client}".strip()
    sent["accept-encoding"] = "identity"
    told = call.told(Outgoing)
    return {**sent, **{k.lower(): v for k, v in told.headers.items()}} if told else sent


def _incoming(headers: Headers) -> dict[str, str]:
    returned = {
        name: value
        for name, value in headers.items()
        if name in _RETURNED or name.startswith(_RETURNED_PREFIXES)
    }
    if request_id := headers.get("x-request-id"):
        returned["x-headrace-upstream-request-id"] = request_id
    return {
        name: value
        for name, value in returned.items()
        if value.isprintable() and len(value) <= _LONGEST_HEADER
    }


def _framing(call: Call, response: Response) -> Framing:
    if call.operation == PASSTHROUGH:
        return "raw"
    match response.headers.get("content-type", "").partition(";")[0].strip().lower():
        case "text/event-stream":
            return "sse"
        case "application/x-ndjson" | "application/ndjson" | "application/jsonl":
            return "ndjson"
        case _:
            return "json"


async def _events(response: Response, framing: Framing, limits: Limits) -> AsyncIterator[Event]:
    chunks = response.chunks()
    if framing == "raw":
        async for chunk in chunks:
            yield Event(chunk)
    elif framing == "json":
        body = await read_all(response, limits.answer)
        yield Event(body, body)
    else:
        decoder: Decoder = SSE(limits.event) if framing == "sse" else NDJSON(limits.event)
        async for chunk in chunks:
            for number, frame in enumerate(decoder.feed(chunk), 1):
                yield Event.of(frame)
                if number % _AT_ONCE == 0:
                    await asyncio.sleep(0)  # a read full of tiny events lets others go on
        for frame in decoder.end():
            yield Event.of(frame)


async def read_all(response: Response, limit: int) -> bytes:
    """The whole body. Raises `UpstreamError` `upstream_too_large` beyond `limit` bytes."""
    pieces: list[bytes] = []
    length = 0
    async for chunk in response.chunks():
        length += len(chunk)
        if length > limit:
            raise UpstreamError(
                f"the upstream's answer is larger than {limit} bytes", code="upstream_too_large"
            )
        pieces.append(chunk)
    return b"".join(pieces)


def check_base_url(url: str) -> str:
    """A base URL without its last slash. Raises `ValueError`, which never shows what is in it."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not url.isprintable() or " " in url:
        raise ValueError("base_url must be http:// or https://, a host, and a port up to 65535")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("base_url has no user, no '?' and no '#'; a key belongs in api_key")
    return url.rstrip("/")


def check_headers(headers: Mapping[str, str]) -> None:
    """Raise `ValueError` for a name or a value that no HTTP header can have (RFC 9110, 5.5)."""
    for name, value in headers.items():
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a header")
        if not value.isprintable() or not value.isascii():
            raise ValueError(f"the value of {name!r} has characters that no header can have")


async def fetch_json(
    transport: Transport, url: str, headers: Mapping[str, str], *, patience: float, limit: int
) -> Any:
    """The JSON value at `url`, for lists of models and the like. Raises `UpstreamError`."""
    lines = {"accept": "application/json", "accept-encoding": "identity", **headers}
    request = Request(method="GET", url=url, headers=tuple(lines.items()), body=b"")
    response = await transport.send(request, connect=patience, idle=patience)
    try:
        if response.status != 200:
            raise await _refusal(response)
        return orjson.loads(await read_all(response, limit))
    except orjson.JSONDecodeError:
        raise UpstreamError("what it lists is not JSON", code="upstream_invalid") from None
    finally:
        await response.aclose()


async def _refusal(response: Response) -> UpstreamError:
    """The error an answer of 300 or more is; of its body the first 64 KiB count, if they come."""
    body = b""
    try:
        async with asyncio.timeout(2):
            async for chunk in response.chunks():
                body += chunk
                if len(body) > _ERROR_BODY:
                    break
    except (UpstreamError, TimeoutError):
        pass  # the status alone says enough
    return UpstreamError.refused(
        response.status,
        body[:_ERROR_BODY],
        retry_after=retry_after(response.headers),
        headers=_incoming(response.headers),
    )


def retry_after(headers: Headers) -> float | None:
    """How many seconds an upstream asks us to wait; None where it gives no usable hint.

    `retry-after-ms` as OpenAI and Azure send it, else `Retry-After` in seconds or as a date (RFC
    9110, 10.2.3); else when a limit that is used up is reset, as OpenAI tells it (its guide "Rate
    limits", "Rate limits in headers"). What lies in the past, beyond an hour, or is no number is no
    hint.
    """
    seconds = _number(headers.get("retry-after-ms"), 1000)
    if seconds is None:
        seconds = _number(headers.get("retry-after"), 1)
    if seconds is None:
        seconds = _until(headers.get("retry-after"))
    if seconds is None:
        seconds = _reset(headers)
    if seconds is None or not 0 < seconds <= _LONGEST_RETRY_AFTER:
        return None
    return seconds


def _reset(headers: Headers) -> float | None:
    """Seconds until every limit is reset of which nothing is left."""
    resets = [
        found
        for counted in ("requests", "tokens")
        if headers.get(f"x-ratelimit-remaining-{counted}") == "0"
        and (found := _RESET.fullmatch(headers.get(f"x-ratelimit-reset-{counted}", "")))
    ]
    return max((_seconds(found) for found in resets), default=None)


_RESET = re.compile(
    r"(?:(\d{1,4})h)?(?:(\d{1,4})m(?!s))?(?:(\d{1,4}(?:\.\d{1,9})?)s)?(?:(\d{1,7})ms)?", re.ASCII
)
"""A time as Go prints it: `6m0s`, `1.5s`, `20ms`."""


def _seconds(found: re.Match[str]) -> float:
    hours, minutes, seconds, milliseconds = (float(part or 0) for part in found.groups())
    return hours * 3600 + minutes * 60 + seconds + milliseconds / 1000


def _number(text: str | None, per_second: int) -> float | None:
    try:
        value = float(text or "") / per_second
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _until(text: str | None) -> float | None:
    parsed = email.utils.parsedate_tz(text) if text else None
    try:
        return email.utils.mktime_tz(parsed) - time.time() if parsed else None
    except (ValueError, OverflowError):
        return None
