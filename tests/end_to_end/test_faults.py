"""Whatever an upstream does wrong, a client gets an answer it can use, and nothing else happens.

Each fault goes through the whole gateway, plain and as a stream. Never is it a 500, never does it
hang, never does a client see where an upstream is or what its key is.
"""

from __future__ import annotations

import asyncio
import email.utils
import gzip
import json
import socket
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from headrace import OPENAI, Event
from headrace.framing import SSE
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
    Pause,
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

from .serving import Note, Served, chat, eventually, post, serving, sockets, wire

CONFIG = """
    server:
      max_event: 1MB
      max_answer: 20MB
      timeouts: {connect: 500ms, first_event: 500ms, idle: 300ms, total: 1s}
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

    @property
    def complete(self) -> bool:
        """Whether it is a success to its very end."""
        return self.status < 300 and b'data: {"error"' not in self.body

    @property
    def outcome(self) -> str:
        """What the access log must say of it."""
        if self.complete:
            return "ok"
        return "incomplete" if self.status < 300 else "failed"

    @property
    def text(self) -> str:
        """The text of a stream."""
        events = map(Event.of, SSE(2**24).feed(self.body))
        return "".join(OPENAI.text(event) for event in events)

    def hides(self, *secrets: str) -> bool:
        """Whether none of these can be seen in it."""
        shown = str(self.headers.items()) + self.body.decode("utf-8", "replace")
        return not any(secret in shown for secret in secrets)

    def __str__(self) -> str:
        if self.complete:
            return str(self.status)
        told = "cut" if self.status < 300 else str(self.status)
        return f"{told} {self.error['code']}"


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


@pytest.fixture(scope="module")
async def http(gateway: Served) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=gateway.url, timeout=5) as http:
        yield http


@pytest.fixture
async def client(http: httpx2.AsyncClient, upstream: Loopback) -> Client:
    return Client(http)


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
# vLLM's older servers: docs.vllm.ai, "OpenAI-Compatible Server", class ErrorResponse
FLAT = {"object": "error", "message": "broke", "type": "X", "param": None, "code": "flux"}
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
    "rst-midstream": (*BEGUN, Pause(0.1), Act.RESET),  # a reset takes unread bytes with it
    "after-done": streams(*EVENTS, DONE, delta(content="late"), done=True),
    "stream-1.0": stretched(*HELLO, DONE),
    "error-first": streams(BROKEN, done=False),
    "error-after-role": streams(EVENTS[0], BROKEN, done=False),
    "error-midstream": streams(*EVENTS[:2], BROKEN),
    "error-200": answers(BROKEN),
    "error-flat": answers(FLAT),
    "error-flat-midstream": streams(*EVENTS[:2], FLAT),
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
    "error-flat": ("502 flux", "502 upstream_invalid"),
    "error-flat-midstream": ("502 upstream_invalid", "cut flux"),
    # F15: no HTTP, or HTTP with two meanings
    "short-cl": ("200", "502 upstream_invalid"),
    "dup-cl": ("502 upstream_protocol", "502 upstream_protocol"),
    "cl-te": ("502 upstream_protocol", "502 upstream_protocol"),
    "bad-chunk": (
        "502 upstream_invalid or 502 upstream_protocol",
        "cut upstream_protocol or 502 upstream_protocol",
    ),
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
    "206": ("206", "502 upstream_invalid"),
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
# The exchange itself is in order, so the connection may be kept for the next one.
IN_ORDER = {
    *("keepalive-lie", "no-done", "after-done", "error-first", "error-after-role", "error-200"),
    *("error-flat", "error-flat-midstream"),
    *("error-midstream", "end-midstream", "invalid-json", "empty-200", "json-null", "json-array"),
    *("json-text", "missing-choices", "no-choices", "wrong-types", "wrong-inside", "bad-utf8"),
    *("deep-json", "nan-json", "sse-nothing", "sse-only-done", "204", "206", "sse-odd"),
    *("sse-split", "gzip-json", "obs-fold", "1xx", "html-200", "redirect", "redirect-to-itself"),
    *("redirect-300", "not-modified", "gzip-corrupt", "gzip-bomb-double", "unknown-encoding"),
}


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_is_told_as_what_it_is(
    client: Client, upstream: Loopback, gateway: Served, fault: str, stream: bool
) -> None:
    upstream.script(BEHAVIOURS[fault])

    told = await client.ask(stream=stream)

    assert str(told) in FAULTS[fault][stream].split(" or ")
    assert told.seconds < 2.5
    row = await gateway.row(told.headers["x-request-id"])
    assert row["outcome"] == told.outcome
    if not told.complete:
        assert set(told.error) == {"message", "type", "param", "code"}
        assert row["code"] == told.error["code"]
        assert told.error["message"]
        assert told.hides(str(upstream.port), "127.0.0.1", "sk-of-the-gateway")
    if fault not in IN_ORDER:
        await upstream.closed(upstream.requests[0].connection, within=1)

    upstream.script(answers(COMPLETION))
    assert json.loads((await client.ask()).body) == COMPLETION  # as if nothing had happened


def test_no_fault_is_forgotten() -> None:
    assert set(FAULTS) == set(BEHAVIOURS)


@pytest.mark.parametrize(
    "fault", [fault for fault, (_, stream) in FAULTS.items() if stream[0] == "5"]
)
async def test_what_fails_before_its_first_word_is_answered_elsewhere(
    client: Client, upstream: Loopback, spare: Loopback, fault: str
) -> None:
    upstream.script(BEHAVIOURS[fault])
    spare.script(streams(*EVENTS))

    told = await client.ask("safe", stream=True)

    assert told.complete
    assert told.headers["x-headrace-upstream"] == "spare"
    assert told.headers["x-headrace-attempts"] == "2"
    assert b"Hello" in told.body


@pytest.mark.parametrize(
    ("fault", "stream", "most"),
    [
        ("giant-line", True, 8),
        ("infinite-line", True, 8),
        ("gzip-bomb-sse", True, 32),
        ("gzip-bomb", False, 32),
        ("error-huge", False, 32),
    ],
)
async def test_what_is_too_large_is_not_kept(
    client: Client,
    upstream: Loopback,
    gateway: Served,
    record_property: Note,
    fault: str,
    stream: bool,
    most: int,
) -> None:
    upstream.script(BEHAVIOURS[fault])
    await client.ask(stream=stream)  # once, so that only what comes now is new
    process = Path(f"/proc/{gateway.process.pid}")
    (process / "clear_refs").write_text("5")  # forgets the peak: man 5 proc_pid_clear_refs
    before = memory(process, "VmRSS")

    await client.ask(stream=stream)

    grown = memory(process, "VmHWM") - before
    record_property(f"memory for {fault}", f"{grown:.1f} MiB")
    assert grown <= most


def memory(process: Path, name: str) -> float:
    """Mebibytes, as the kernel counts them."""
    lines = (process / "status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


# The answers that are right


@pytest.mark.parametrize("oddity", ["no-done", "after-done", "stream-1.0", "sse-odd", "sse-split"])
async def test_a_stream_that_is_odd_and_right_comes_whole(
    client: Client, upstream: Loopback, oddity: str
) -> None:
    upstream.script(BEHAVIOURS[oddity])

    told = await client.ask(stream=True)

    assert told.text == "Hello world" + (" \u2028 \U0001f600" if oddity == "sse-odd" else "")
    assert told.body.count(b"[DONE]") == 1
    assert b"late" not in told.body


@pytest.mark.parametrize("oddity", ["short-cl", "gzip-json", "obs-fold", "1xx", "http10"])
async def test_an_answer_that_is_odd_and_right_comes_whole(
    client: Client, upstream: Loopback, oddity: str
) -> None:
    upstream.script(BEHAVIOURS[oddity])

    told = await client.ask()

    assert json.loads(told.body) == COMPLETION
    assert told.headers["content-type"] == "application/json"
    assert int(told.headers["content-length"]) == len(told.body)


# No connection (F1, F2, F3)


@pytest.mark.parametrize(
    ("model", "expected", "seconds"),
    [
        ("gone", "502 connect_failed", 0.2),
        ("nowhere", "502 dns_failed", 2),
        ("hole", "504 connect_timeout", 1),
    ],
)
async def test_where_no_connection_is_to_be_had_it_is_told_at_once(
    client: Client, gateway: Served, model: str, expected: str, seconds: float
) -> None:
    told = await client.ask(model)

    assert str(told) == expected
    assert told.error["type"] == TYPES[told.status]
    assert told.seconds < seconds
    assert told.hides("127.0.0.1", "nonexistent")
    row = await gateway.row(told.headers["x-request-id"])
    assert [attempt["code"] for attempt in row["attempts"]] == [told.error["code"]]


async def test_other_calls_go_on_while_a_name_is_looked_up_in_vain(
    client: Client, upstream: Loopback
) -> None:
    upstream.script(answers(COMPLETION))

    in_vain = [asyncio.create_task(client.ask("nowhere")) for _ in range(10)]
    told = await client.ask()

    assert (str(told), told.seconds < 1) == ("200", True)
    assert {str(each) for each in await asyncio.gather(*in_vain)} == {"502 dns_failed"}


# Kept connections (F7, F15)


async def test_a_kept_connection_that_died_is_no_failure(
    client: Client, upstream: Loopback, gateway: Served
) -> None:
    upstream.script("keepalive-lie")

    told = [await client.ask() for _ in range(3)]

    assert [str(each) for each in told] == ["200"] * 3
    assert {each.headers["x-headrace-attempts"] for each in told} == {"1"}


async def test_bytes_beyond_an_answer_never_answer_the_next_call(
    client: Client, upstream: Loopback
) -> None:
    upstream.script("short-cl")

    told = await asyncio.gather(*(client.ask() for _ in range(20)))

    assert {each.body for each in told} == {json.dumps(COMPLETION, separators=(",", ":")).encode()}


# Redirects (F22)


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_a_redirect_leads_nowhere(
    client: Client, upstream: Loopback, spare: Loopback, code: int
) -> None:
    spare.requests.clear()
    upstream.script(status(code, b"", f"location: {spare.url}/v1/chat/completions"))

    told = await client.ask()

    assert str(told) == "502 upstream_redirect"
    assert "location" not in told.headers
    assert told.hides(str(spare.port))
    assert spare.requests == []


# Limits of an upstream's (F23, F24)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("retry-after: 3", "3"),
        ("retry-after-ms: 1500", "2"),
        ("retry-after: 99999999", None),
        ("retry-after: -5", None),
        ("retry-after: soon", None),
        ("retry-after: nan", None),
        ("retry-after: inf", None),
        ("retry-after: 1e400", None),
        ("retry-after: Wed, 21 Oct 2015 07:28:00 GMT", None),
        ("retry-after: Wed, 99 Foo 9999 99:99:99 GMT", None),
        ("x-other: 1", None),
    ],
)
async def test_a_limit_is_told_with_when_to_come_back(
    client: Client, upstream: Loopback, header: str, seconds: str | None
) -> None:
    upstream.script(status(429, {"error": {"message": "slow down"}}, header))

    told = await client.ask()

    assert (told.status, told.error["type"]) == (429, "rate_limit_error")
    assert told.headers.get("retry-after") == seconds
    assert told.seconds < 1


async def test_a_limit_with_a_date_is_told_in_seconds(client: Client, upstream: Loopback) -> None:
    at = email.utils.formatdate(time.time() + 30, usegmt=True)
    upstream.script(status(429, {"error": {"message": "slow down"}}, f"retry-after: {at}"))

    told = await client.ask()

    assert 28 <= int(told.headers["retry-after"]) <= 30


async def test_a_limit_at_one_upstream_is_none_at_another(
    client: Client, upstream: Loopback, spare: Loopback
) -> None:
    upstream.script(status(429, {"error": {"message": "slow down"}}, "retry-after: 9"))
    spare.script(answers(COMPLETION))

    told = await client.ask("safe")

    assert (str(told), told.headers["x-headrace-upstream"]) == ("200", "spare")
    assert told.seconds < 1


async def test_a_short_wait_is_waited_for(client: Client, upstream: Loopback) -> None:
    asked: list[float] = []

    def slow(_: Received) -> Steps:
        asked.append(time.monotonic())
        limit = status(429, {"error": {"message": "slow down"}}, "retry-after-ms: 300")
        return limit if len(asked) == 1 else answers(COMPLETION)

    upstream.script(slow)

    told = await client.ask("patient")

    assert str(told) == "200"
    assert 0.3 <= asked[1] - asked[0] < 1


async def test_a_long_wait_is_the_clients_to_choose(client: Client, upstream: Loopback) -> None:
    upstream.script(status(429, {"error": {"message": "slow down"}}, "retry-after: 15"))

    told = await client.ask("patient")

    assert (told.status, told.headers["retry-after"]) == (429, "15")
    assert told.seconds < 1
    assert len(upstream.requests) == 1


# A client that does not read (F41)


async def test_an_upstream_waits_for_a_client_that_does_not_read(
    gateway: Served, upstream: Loopback
) -> None:
    upstream.script(endless(*BEGUN, then=chunk(event(delta(content="a" * 60_000)))))

    async with wire(gateway.url) as client:
        client.stop_reading()
        await client.send(post("/v1/chat/completions", chat(stream=True)))
        await upstream.asked()
        sender = upstream.connections[upstream.requests[0].connection]
        await level(lambda: sender.sent)

        assert sender.sent < 16 * 2**20
        async with httpx2.AsyncClient(base_url=gateway.url) as other:
            assert (await other.get("/healthz")).status_code == 200
    await upstream.closed(upstream.requests[0].connection, within=1)


async def test_a_client_that_does_not_read_is_given_up(upstream: Loopback) -> None:
    text = """
        server: {write_stall: 500ms}
        upstreams: {here: {forwarder: {openai: {base_url: "${UPSTREAM}/v1"}}, models: [m]}}
        routes: {m: here}
        """
    upstream.script(endless(*BEGUN, then=chunk(event(delta(content="a" * 60_000)))))

    async with serving(text, UPSTREAM=upstream.url) as gateway:
        idle = sockets(gateway)
        async with wire(gateway.url) as client:
            client.stop_reading()
            await client.send(post("/v1/chat/completions", chat(stream=True)))
            await upstream.asked()
            await upstream.closed(upstream.requests[0].connection, within=5)
            await gateway.until(lambda: bool(gateway.rows))

            assert gateway.rows[0]["outcome"] == "client_closed"
            await eventually(lambda: sockets(gateway) <= idle, within=5)


async def level(count: Callable[[], int], still: float = 0.5, within: float = 10) -> None:
    """Wait until a count has stopped growing."""
    async with asyncio.timeout(within):
        before = -1
        while before != count():
            before = count()
            await asyncio.sleep(still)


# Circles (F48)


async def test_a_gateway_that_asks_itself_says_so_at_once() -> None:
    port = free_port()
    text = """
        upstreams:
          me:
            forwarder: {openai: {base_url: "${ME}/v1"}}
            plugins: [retry]
        routes: {m: me}
        """
    async with serving(text, "--port", str(port), ME=f"http://127.0.0.1:{port}") as gateway:
        told = await asked(gateway)

        assert (str(told), told.error["type"]) == ("508 loop", "upstream_error")
        assert [row["path"] for row in gateway.rows].count("/v1/chat/completions") == 2
        assert told.seconds < 1


async def test_a_ring_of_gateways_is_found_out() -> None:
    text = """
        upstreams: {next: {forwarder: {openai: {base_url: "${NEXT}/v1"}}}}
        routes: {m: next}
        """
    one, two = free_port(), free_port()
    async with (
        serving(text, "--port", str(one), NEXT=f"http://127.0.0.1:{two}") as gateway,
        serving(text, "--port", str(two), NEXT=f"http://127.0.0.1:{one}"),
    ):
        told = await asked(gateway)

        assert str(told) == "508 loop"
        assert [row["path"] for row in gateway.rows].count("/v1/chat/completions") == 2


async def asked(gateway: Served) -> Told:
    async with httpx2.AsyncClient(base_url=gateway.url) as http:
        told = await Client(http).ask()
    await gateway.row(told.headers["x-request-id"])
    return told


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
