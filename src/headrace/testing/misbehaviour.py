"""What a `Loopback` server does: answers, their building blocks, and everything done wrong.

`answers`, `streams` and `status` are what an upstream should do. `STIMULI` holds, under the names
of the faults they are, what upstreams do instead. Others are put together from the same parts:

    server.script((STREAM, chunk(event({"text": "hel"})), Act.RESET))
    server.script(cut(1, streams({"text": "héllo"})))       # one byte at a time

A behaviour that never ends, or depends on the request, is a function that yields its steps.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from typing import Any


class Act(Enum):
    """What a server does that is not writing."""

    STALL = "say nothing more until the other side leaves or the server closes"
    CLOSE = "end the connection in order"
    RESET = "end the connection with a TCP reset"


@dataclass(frozen=True)
class Pause:
    """Say nothing for so many seconds."""

    seconds: float


@dataclass(frozen=True, kw_only=True)
class Received:
    """A request as it came in."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    connection: int
    """The connection it came on, counted from 0."""
    nth: int
    """How many requests had come on that connection before."""

    def header(self, name: str) -> str | None:
        """The value of the first header of this name."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


Step = bytes | Act | Pause
Steps = Iterable[Step]
Behaviour = Steps | Callable[[Received], Steps]

DONE = b"data: [DONE]\n\n"
LAST_CHUNK = b"0\r\n\r\n"


def head(status: int = 200, *headers: str, version: str = "HTTP/1.1") -> bytes:
    """A status line and headers, each as `"name: value"`."""
    phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else "Whatever"
    return "\r\n".join([f"{version} {status} {phrase}", *headers, "", ""]).encode("latin-1")


def whole(body: bytes, *headers: str, status: int = 200) -> bytes:
    """An answer with its body at once."""
    return head(status, *headers, f"content-length: {len(body)}") + body


def chunk(data: bytes) -> bytes:
    """`data` as one chunk of the chunked coding."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(data: Any) -> bytes:
    """A server-sent event with `data` as JSON."""
    return b"data: %b\n\n" % _json(data)


def _json(data: Any) -> bytes:
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode()


def answers(data: Any, *headers: str) -> tuple[Step, ...]:
    """200 with JSON."""
    body = _json(data)
    return (whole(body, "content-type: application/json", *headers),)


def status(code: int, body: bytes | Any = b"", *headers: str) -> tuple[Step, ...]:
    """Any status, with bytes or JSON."""
    if not isinstance(body, bytes):
        body, headers = _json(body), ("content-type: application/json", *headers)
    return (whole(body, *headers, status=code),)


def streams(*events: Any, done: bool = True) -> tuple[Step, ...]:
    """200 with server-sent events, each in its own packet: bytes as they are, others as JSON."""
    frames = [each if isinstance(each, bytes) else event(each) for each in events]
    return (STREAM, *map(chunk, frames + [DONE] * done), LAST_CHUNK)


def cut(size: int, steps: Steps) -> tuple[Step, ...]:
    """The same, `size` bytes at a time."""
    return tuple(
        piece
        for step in steps
        for piece in (
            (step[at : at + size] for at in range(0, len(step), size))
            if isinstance(step, bytes)
            else (step,)
        )
    )


STREAM = head(200, "content-type: text/event-stream", "transfer-encoding: chunked")
PLAIN = ("content-type: application/json",)
COMPLETION = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello world"},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
}
"""A whole answer to a chat, as OpenAI would give it."""


def delta(finish_reason: str | None = None, **members: Any) -> dict[str, Any]:
    """One event of a streamed answer to a chat."""
    choice = {"index": 0, "delta": members, "finish_reason": finish_reason}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [choice],
    }


EVENTS = (
    delta(role="assistant", content=""),
    delta(content="Hello"),
    delta(content=" world"),
    delta("stop"),
)
"""The same answer as a stream."""


def keepalive_lie(received: Received) -> Steps:
    """Promise to keep the connection, then close it on the next request."""
    return answers(COMPLETION) if received.nth == 0 else (Act.CLOSE,)


def drip_headers(_: Received) -> Iterator[Step]:
    """A header that grows a byte at a time, for ever."""
    yield b"HTTP/1.1 200 OK\r\nx-drip: "
    while True:
        yield b"a"
        yield Pause(0.01)


def interim_flood(_: Received) -> Iterator[Step]:
    """`103 Early Hints`, for ever."""
    while True:
        yield head(103, "link: </style.css>")
        yield Pause(0.001)


def pings_only(_: Received) -> Iterator[Step]:
    """A stream of nothing but comments, for ever."""
    yield STREAM
    while True:
        yield chunk(b": ping\n\n")
        yield Pause(0.01)


def gzip_bomb(_: Received) -> Iterator[Step]:
    """A gigabyte of zeros in a megabyte of gzip."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    mebi = bytes(2**20)
    first = packer.compress(mebi) + packer.flush(zlib.Z_FULL_FLUSH)
    more = packer.compress(mebi) + packer.flush(zlib.Z_FULL_FLUSH)
    length = len(first) + 1023 * len(more)
    yield head(200, *PLAIN, "content-encoding: gzip", f"content-length: {length}") + first
    yield from [more] * 1023


_BODY = _json(COMPLETION)
_SMUGGLED = whole(b'{"smuggled": true}', *PLAIN)
_STARTED = (STREAM, *(chunk(event(each)) for each in EVENTS[:2]))
_LENGTH = f"content-length: {len(_BODY)}"

STIMULI: Mapping[str, Behaviour] = {
    # No answer, or none in time.
    "never": (Act.STALL,),
    "slow-headers": (Pause(5), *answers(COMPLETION)),
    "half-headers": (b"HTTP/1.1 200 OK\r\ncontent-", Act.STALL),
    "drip-headers": drip_headers,
    "1xx-flood": interim_flood,
    "rst": (Act.RESET,),
    "close": (Act.CLOSE,),
    "half-headers-close": (b"HTTP/1.1 200 OK\r\ncontent-", Act.CLOSE),
    "keepalive-lie": keepalive_lie,
    # A stream that falls silent or breaks.
    "stall-before-first": (STREAM, Act.STALL),
    "stall-midstream": (*_STARTED, Act.STALL),
    "pings-only": pings_only,
    "close-midstream": (*_STARTED, Act.CLOSE),
    "rst-midstream": (*_STARTED, Act.RESET),
    "truncated-chunked": (*_STARTED, chunk(event(EVENTS[2]))[:20], Act.CLOSE),
    "truncated-cl": (head(200, *PLAIN, _LENGTH) + _BODY[:-20], Act.CLOSE),
    # Not HTTP, or HTTP that two readers read in two ways.
    "short-cl": (head(200, *PLAIN, _LENGTH) + _BODY + _SMUGGLED,),
    "dup-cl": (head(200, *PLAIN, _LENGTH, "content-length: 10") + _BODY,),
    "cl-te": (head(200, *PLAIN, "content-length: 4", "transfer-encoding: chunked")
              + chunk(_BODY) + LAST_CHUNK + _SMUGGLED,),
    "bad-chunk": (*_STARTED, b"zz\r\nwhat\r\n", Act.STALL),
    "garbage": (b"\x00\x16\x03\xffSSH-2.0-OpenSSH_9.6\r\n\r\n", Act.STALL),
    "bad-status": (b"HTTP/1.1 abc OK\r\ncontent-length: 0\r\n\r\n",),
    "status-999": status(999, b"{}"),
    # HTTP, but not the API.
    "invalid-json": (whole(b'{"choices": [', *PLAIN),),
    "empty-200": (whole(b"", *PLAIN),),
    "html-200": (whole(b"<!doctype html><title>Welcome</title>", "content-type: text/html"),),
    # Bodies that cannot be inflated, or should not.
    "gzip-bomb": gzip_bomb,
    "gzip-corrupt": (whole(b"\x1f\x8b\x08\x00" + b"\xff" * 60, *PLAIN, "content-encoding: gzip"),),
    "unknown-encoding": (whole(_BODY, *PLAIN, "content-encoding: snappy"),),
    # Heads at the edge of what is allowed, and beyond.
    "huge-header": (whole(_BODY, *PLAIN, "x-huge: " + "a" * 100_000),),
    "many-headers": (whole(_BODY, *PLAIN, *(f"x-{n}: {n}" for n in range(200))),),
    "obs-fold": (whole(_BODY, *PLAIN, "x-fold: one\r\n two"),),
    "1xx": (head(100), head(103, "link: </style.css>"), *answers(COMPLETION)),
    "101": (head(101, "connection: upgrade", "upgrade: websocket"), Act.STALL),
    "http10": (head(200, *PLAIN, version="HTTP/1.0") + _BODY, Act.CLOSE),
    "redirect": status(302, b"", "location: http://169.254.169.254/latest/meta-data/"),
}  # fmt: skip
"""What upstreams do wrong, by the names that docs and tests use."""
