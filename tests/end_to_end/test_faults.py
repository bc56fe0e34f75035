"""Whatever an upstream does wrong, a client gets an answer it can use, and nothing else happens.

Each fault goes through the whole gateway, plain and as a stream. Never is it a 500, never does it
hang, never does a client see where an upstream is or what its key is.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import time
import zlib
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from headrace.testing import Loopback
from headrace.testing.misbehaviour import (
    COMPLETION,
    DONE,
    EVENTS,
    LAST_CHUNK,
    PLAIN,
    STIMULI,
    STREAM,
    Act,
    Behaviour,
    Received,
    Step,
    Steps,
    answers,
    chunk,
    cut,
    delta,
    event,
    head,
    status,
    streams,
    whole,
)

from .serving import Served, chat, serving

CONFIG = """
    server:
      max_event: 1MB
      max_answer: 20MB
      timeouts: {connect: 500ms, first_event: 600ms, idle: 400ms, total: 1200ms}
      store: memory://
    upstreams:
      here: {forwarder: {openai: {base_url: "${UPSTREAM}/v1", api_key: sk-of-the-gateway}}}
      spare: {forwarder: {openai: {base_url: "${SPARE}/v1"}}}
      gone: {forwarder: {openai: {base_url: "http://127.0.0.1:${GONE}/v1"}}}
      nowhere: {forwarder: {openai: {base_url: "http://nonexistent.invalid/v1"}}}
      hole: {forwarder: {openai: {base_url: "http://127.0.0.1:${HOLE}/v1"}}}
      patient:
        forwarder: {openai: {base_url: "${UPSTREAM}/v1", api_key: sk-of-the-gateway}}
        timeouts: {total: 20s}
        plugins: [retry: {attempts: 2, wait: 1ms}]
    routes:
      m: here
      gone: gone
      nowhere: nowhere
      hole: hole
      safe: {chain: [fallback], targets: [here, spare]}
      patient: patient
    """
TYPES = {
    400: "invalid_request_error",
    429: "rate_limit_error",
    502: "upstream_error",
    503: "overloaded_error",
    504: "timeout_error",
}


@pytest.fixture(scope="module")
async def spare() -> AsyncIterator[Loopback]:
    async with Loopback() as spare:
        yield spare


@pytest.fixture(scope="module")
def hole() -> Iterator[int]:
    """The port of a server that takes no connection: one more than its queue holds is waiting."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        port: int = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            yield port


@pytest.fixture(scope="module")
async def gateway(server: Loopback, spare: Loopback, hole: int) -> AsyncIterator[Served]:
    with socket.socket() as gone:
        gone.bind(("127.0.0.1", 0))  # and never listens
        ports = {"GONE": str(gone.getsockname()[1]), "HOLE": str(hole)}
        async with serving(CONFIG, UPSTREAM=server.url, SPARE=spare.url, **ports) as served:
            yield served


@dataclass
class Told:
    """What a client was told."""

    status: int
    headers: httpx2.Headers
    body: bytes
    seconds: float

    @property
    def error(self) -> dict[str, Any]:
        """The error, whether it is the answer or the end of the stream."""
        last = self.body.removesuffix(b"\n\n").rpartition(b"\n\n")[2].removeprefix(b"data: ")
        error: dict[str, Any] = json.loads(last)["error"]
        return error

    def __str__(self) -> str:
        if self.status == 200 and (not self.body or b'{"error"' in self.body):
            return f"cut {self.error['code']}" if self.body else "empty"
        return str(self.status) if self.status == 200 else f"{self.status} {self.error['code']}"


class Client:
    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http

    async def ask(self, model: str = "m", *, stream: bool = False) -> Told:
        began = time.monotonic()
        response = await self._http.post(
            "/v1/chat/completions", json=chat(model=model, stream=stream)
        )
        took = time.monotonic() - began
        return Told(response.status_code, response.headers, response.content, took)


@pytest.fixture
async def client(gateway: Served, upstream: Loopback) -> AsyncIterator[Client]:
    async with httpx2.AsyncClient(base_url=gateway.url, timeout=5) as http:
        yield Client(http)


def endless(*begin: Step, then: bytes) -> Behaviour:
    """`begin`, then the same for ever."""

    def behave(_: Received) -> Iterator[Step]:
        yield from begin
        while True:
            yield then

    return behave


def stretched(*events: bytes) -> Behaviour:
    """A stream that ends with its connection instead of saying its length, as HTTP/1.0 has it."""
    return (head(200, "content-type: text/event-stream"), *events, Act.CLOSE)


def deep(depth: int) -> bytes:
    return b'{"choices":' + b"[" * depth + b"]" * depth + b"}"


def packed_stream() -> Iterator[Step]:
    """A megabyte of gzip that is a gigabyte of one event."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    yield head(
        200, "content-type: text/event-stream", "content-encoding: gzip", "connection: close"
    )
    yield packer.compress(b"data: ")
    for _ in range(1024):
        yield packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)


HELLO = [event(each) for each in EVENTS]
BEGUN = (STREAM, *map(chunk, HELLO[:2]))
BROKEN = {"error": {"message": "the model broke", "type": "server_error", "code": "flux"}}
ODD = (
    b"\xef\xbb\xbf: a comment first\r\n\r\n"
    + b"event: message\rid: 7\rdata: " + json.dumps(EVENTS[0]).encode() + b"\r\r"
    + b"retry: 10\ndata:" + json.dumps(EVENTS[1]).encode().replace(b", ", b",\ndata: ") + b"\n\n"
    + b":\n\n\n\n"
    + b"data: " + json.dumps(delta(content=" world \u2028 \U0001f600"), ensure_ascii=False).encode()
    + b"\r\n\r\n" + HELLO[3] + b"data:[DONE]"
)  # fmt: skip

OTHERS: Mapping[str, Behaviour] = {
    "truncated-stream": stretched(*HELLO[:2]),
    "end-midstream": streams(*EVENTS[:2], done=False),
    "no-done": streams(*EVENTS, done=False),
    "after-done": streams(*EVENTS, DONE, delta(content="late"), done=True),
    "stream-1.0": stretched(*HELLO, DONE),
    "error-first": streams(BROKEN, done=False),
    "error-after-role": streams(EVENTS[0], BROKEN, done=False),
    "error-midstream": streams(*EVENTS[:2], BROKEN),
    "error-200": answers(BROKEN),
    "json-null": answers(None),
    "json-array": answers([COMPLETION]),
    "json-text": answers("hello"),
    "missing-choices": answers({"object": "chat.completion"}),
    "no-choices": answers({**COMPLETION, "choices": []}),
    "wrong-types": answers({**COMPLETION, "choices": "no", "usage": [1], "model": 7}),
    "wrong-inside": answers({**COMPLETION, "choices": [{"message": 7}], "usage": {"x": "y"}}),
    "bad-utf8": (whole(b'{"choices": [{"message": {"content": "\xff\xfe"}}]}', *PLAIN),),
    "deep-json": (whole(deep(100_000), *PLAIN),),
    "nan-json": (whole(b'{"choices": [{"x": NaN}]}', *PLAIN),),
    "sse-no-json": (*BEGUN, chunk(b"data: {oops\n\n"), Act.STALL),
    "sse-list": (*BEGUN, chunk(b"data: [1]\n\n"), Act.STALL),
    "sse-no-json-first": (STREAM, chunk(b"data: <html>\n\n"), Act.STALL),
    "sse-nothing": streams(done=False),
    "sse-only-done": streams(),
    "sse-odd": (STREAM, chunk(ODD), LAST_CHUNK),
    "sse-split": cut(1, streams(*EVENTS)),
    "giant-line": streams(*EVENTS[:2], delta(content="a" * 10_000_000)),
    "giant-line-first": streams(delta(content="a" * 10_000_000)),
    "infinite-line": endless(*BEGUN, chunk(b"data: "), then=chunk(b"a" * 65536)),
    "infinite-stream-of-lines": endless(*BEGUN, then=chunk(b"\n" * 65536)),
    "gzip-json": (whole(gzip.compress(json.dumps(COMPLETION).encode()), *PLAIN,
                        "content-encoding: gzip"),),
    "gzip-bomb-double": (whole(gzip.compress(gzip.compress(bytes(2**24))), *PLAIN,
                               "content-encoding: gzip, gzip"),),
    "gzip-bomb-sse": lambda _: packed_stream(),
    "big-json": (whole(b'{"choices": [{"x": "' + b"a" * 21_000_000 + b'"}]}', *PLAIN),),
    "big-json-endless": endless(head(200, *PLAIN, "transfer-encoding: chunked"),
                                then=chunk(b" " * 65536)),
    "error-huge": (whole(b"a" * 20_000_000, status=500),),
    "error-that-stalls": (head(503, "content-length: 10") + b"a", Act.STALL),
    "redirect-to-itself": status(307, b"", "location: /v1/chat/completions"),
    "redirect-300": status(300, b""),
    "not-modified": (head(304),),
    "204": (head(204),),
    "206": status(206, json.dumps(COMPLETION).encode(), *PLAIN),
}  # fmt: skip

# What a client is told, plain and as a stream: 200, a status and a code, or where a stream is cut.
FAULTS: Mapping[str, tuple[str, str]] = {
    # F4, F5, F8, F10: no answer in time
    "never": ("504 total_timeout", "504 first_byte_timeout"),
    "slow-headers": ("504 total_timeout", "504 first_byte_timeout"),
    "half-headers": ("504 total_timeout", "504 first_byte_timeout"),
    "drip-headers": ("504 total_timeout", "504 first_byte_timeout"),
    "1xx-flood": ("504 total_timeout", "504 first_byte_timeout"),
    "stall-before-first": ("502 upstream_invalid", "504 idle_timeout"),
    "pings-only": ("502 upstream_invalid", "504 first_byte_timeout"),
    # F6, F7: no answer at all
    "rst": ("502 connection_lost", "502 connection_lost"),
    "close": ("502 connection_lost", "502 connection_lost"),
    "half-headers-close": ("502 connection_lost", "502 connection_lost"),
    "keepalive-lie": ("200", "502 upstream_invalid"),
    # F9, F11, F12: an answer that ends too early
    "stall-midstream": ("502 upstream_invalid", "cut idle_timeout"),
    "close-midstream": ("502 upstream_invalid", "cut upstream_truncated"),
    "rst-midstream": ("502 upstream_invalid", "cut upstream_truncated"),
    "truncated-stream": ("502 upstream_invalid", "cut upstream_truncated"),
    "truncated-chunked": ("502 upstream_invalid", "cut upstream_truncated"),
    "truncated-cl": ("502 upstream_truncated", "502 upstream_invalid"),
    "end-midstream": ("502 upstream_invalid", "cut upstream_truncated"),
    # F13, F14: the end, and errors
    "no-done": ("502 upstream_invalid", "200"),
    "after-done": ("502 upstream_invalid", "200"),
    "stream-1.0": ("502 upstream_invalid", "200"),
    "error-first": ("502 upstream_invalid", "502 flux"),
    "error-after-role": ("502 upstream_invalid", "502 flux"),
    "error-midstream": ("502 upstream_invalid", "cut flux"),
    "error-200": ("502 flux", "502 upstream_invalid"),
    # F15: no HTTP, or HTTP with two meanings
    "short-cl": ("200", "502 upstream_invalid"),
    "dup-cl": ("502 upstream_protocol", "502 upstream_protocol"),
    "cl-te": ("502 upstream_protocol", "502 upstream_protocol"),
    "bad-chunk": ("502 upstream_invalid", "cut upstream_protocol"),
    "garbage": ("502 upstream_protocol", "502 upstream_protocol"),
    "bad-status": ("502 upstream_protocol", "502 upstream_protocol"),
    "status-999": ("502 upstream_protocol", "502 upstream_protocol"),
    # F16, F17: HTTP, but no answer
    "invalid-json": ("502 upstream_invalid", "502 upstream_invalid"),
    "empty-200": ("502 upstream_invalid", "502 upstream_invalid"),
    "html-200": ("502 upstream_invalid", "502 upstream_invalid"),
    "json-null": ("502 upstream_invalid", "502 upstream_invalid"),
    "json-array": ("502 upstream_invalid", "502 upstream_invalid"),
    "json-text": ("502 upstream_invalid", "502 upstream_invalid"),
    "missing-choices": ("502 upstream_invalid", "502 upstream_invalid"),
    "no-choices": ("502 upstream_invalid", "502 upstream_invalid"),
    "wrong-types": ("502 upstream_invalid", "502 upstream_invalid"),
    "wrong-inside": ("200", "502 upstream_invalid"),
    "bad-utf8": ("502 upstream_invalid", "502 upstream_invalid"),
    "deep-json": ("502 upstream_invalid", "502 upstream_invalid"),
    "nan-json": ("502 upstream_invalid", "502 upstream_invalid"),
    "sse-no-json": ("502 upstream_invalid", "cut upstream_invalid"),
    "sse-list": ("502 upstream_invalid", "cut upstream_invalid"),
    "sse-no-json-first": ("502 upstream_invalid", "502 upstream_invalid"),
    "sse-nothing": ("502 upstream_invalid", "502 upstream_invalid"),
    "sse-only-done": ("502 upstream_invalid", "502 upstream_invalid"),
    "204": ("502 upstream_invalid", "502 upstream_invalid"),
    "206": ("502 upstream_invalid", "502 upstream_invalid"),
    # F18: odd and right
    "sse-odd": ("502 upstream_invalid", "200"),
    "sse-split": ("502 upstream_invalid", "200"),
    # F19, F20: too large
    "giant-line": ("502 upstream_invalid", "cut event_too_large"),
    "giant-line-first": ("502 upstream_invalid", "502 event_too_large"),
    "infinite-line": ("502 upstream_invalid", "cut event_too_large"),
    "infinite-stream-of-lines": ("502 upstream_invalid", "cut event_too_large"),
    "gzip-json": ("200", "502 upstream_invalid"),
    "gzip-bomb": ("502 upstream_too_large", "502 upstream_invalid"),
    "gzip-bomb-double": ("502 upstream_encoding", "502 upstream_invalid"),
    "gzip-bomb-sse": ("502 upstream_invalid", "502 event_too_large"),
    "gzip-corrupt": ("502 upstream_encoding", "502 upstream_invalid"),
    "unknown-encoding": ("502 upstream_encoding", "502 upstream_invalid"),
    "big-json": ("502 upstream_too_large", "502 upstream_invalid"),
    "big-json-endless": ("502 upstream_too_large", "502 upstream_invalid"),
    "error-huge": ("502 upstream_500", "502 upstream_500"),
    "error-that-stalls": ("503 upstream_503", "503 upstream_503"),
    # F21: heads
    "huge-header": ("502 upstream_protocol", "502 upstream_protocol"),
    "many-headers": ("502 upstream_protocol", "502 upstream_protocol"),
    "obs-fold": ("200", "502 upstream_invalid"),
    "1xx": ("200", "502 upstream_invalid"),
    "101": ("502 upstream_protocol", "502 upstream_protocol"),
    "http10": ("200", "502 upstream_invalid"),
    # F22: redirects
    "redirect": ("502 upstream_redirect", "502 upstream_redirect"),
    "redirect-to-itself": ("502 upstream_redirect", "502 upstream_redirect"),
    "redirect-300": ("502 upstream_redirect", "502 upstream_redirect"),
    "not-modified": ("502 upstream_redirect", "502 upstream_redirect"),
}
BEHAVIOURS: Mapping[str, Behaviour] = {**STIMULI, **OTHERS}


def test_no_fault_is_forgotten() -> None:
    assert set(FAULTS) == set(BEHAVIOURS)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_is_told_as_what_it_is(
    client: Client, upstream: Loopback, gateway: Served, fault: str, stream: bool
) -> None:
    upstream.script(BEHAVIOURS[fault])

    told = await client.ask(stream=stream)

    assert str(told) == FAULTS[fault][stream]
    assert told.seconds < 3
    print(told.seconds, told.body[:200])
