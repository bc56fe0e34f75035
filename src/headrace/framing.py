"""Bytes to frames and back: server-sent events and newline-delimited JSON, without I/O.

Both decoders work on bytes and give the same frames however the bytes are cut. The frames' `raw`
joined is what came in, so a stream that nobody changes leaves as it arrived.
"""

from __future__ import annotations

import re
from typing import NamedTuple, Protocol

from headrace.errors import UpstreamError

# A line end, then another one: the blank line that ends an event. Atomic, so that CR LF is never
# taken apart (HTML Standard, 9.2.5 "Parsing an event stream").
_BLANK_LINE = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LINE_END = re.compile(rb"\r\n|\n|\r")
_NOT_LINE_END = re.compile(rb"[^\r\n]")
_BOM = b"\xef\xbb\xbf"


class Frame(NamedTuple):
    """One frame: its bytes as they came, what they carry (None for a mere comment), its name."""

    raw: bytes
    data: bytes | None
    name: str | None = None


class Decoder(Protocol):
    """Takes bytes as they come, gives frames as they are complete."""

    def feed(self, chunk: bytes) -> list[Frame]:
        """The frames that `chunk` completes."""

    def end(self) -> list[Frame]:
        """What was still open when the bytes ended."""


class SSE:
    """Server-sent events (HTML Standard, 9.2): LF, CR or CRLF, comments, data on several lines.

    `limit` is the longest event in bytes; a longer one raises `UpstreamError` `event_too_large`.
    An event that the end of the stream leaves without its blank line still counts.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._searched = 0
        self._blank = 0
        self._first = True

    def feed(self, chunk: bytes) -> list[Frame]:
        """The events that `chunk` completes."""
        buffer = self._buffer
        buffer += chunk
        frames: list[Frame] = []
        start = 0
        while content := _NOT_LINE_END.search(buffer, start + self._blank):
            self._blank = 0
            blank = _BLANK_LINE.search(buffer, max(content.start(), self._searched))
            if not blank or (blank.end() == len(buffer) and buffer.endswith(b"\r\n\r")):
                break  # that last CR is half of a CR LF, so that the event is not whole yet
            frames.append(self._frame(bytes(buffer[start : blank.end()])))
            start = self._searched = blank.end()
        del buffer[:start]
        self._blank = 0 if content else len(buffer)  # nothing but line ends so far
        # A blank line of up to four bytes may be cut anywhere: look at its beginning again.
        self._searched = max(0, len(buffer) - 3)
        if len(buffer) > self._limit:
            raise too_large(self._limit)
        return frames

    def end(self) -> list[Frame]:
        """The last event, if its blank line never came."""
        rest, self._buffer = bytes(self._buffer), bytearray()
        return [self._frame(rest)] if rest.strip() else []

    def _frame(self, raw: bytes) -> Frame:
        if len(raw) > self._limit:
            raise too_large(self._limit)
        if raw.startswith(b"data: ") and len(raw) - 2 == raw.find(b"\n") and b"\r" not in raw:
            self._first = False  # one line of data, as nearly every event is
            return Frame(raw, raw[6:-2])
        text = raw
        if self._first:
            self._first, text = False, raw.removeprefix(_BOM)
        data: list[bytes] = []
        name = None
        for line in _LINE_END.split(text):
            field, _, value = line.partition(b":")
            if field == b"data":
                data.append(value.removeprefix(b" "))
            elif field == b"event":
                name = value.removeprefix(b" ").decode("utf-8", "replace")
        return Frame(raw, b"\n".join(data) if data else None, name)


class NDJSON:
    """Newline-delimited JSON: one value a line, split at LF alone (github.com/ndjson/ndjson-spec).

    `limit` is the longest line in bytes; a longer one raises `UpstreamError` `event_too_large`.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: list[bytes] = []
        self._length = 0

    def feed(self, chunk: bytes) -> list[Frame]:
        """The lines that `chunk` completes."""
        *whole, rest = chunk.split(b"\n")
        frames = []
        for line in whole:
            self._keep(line)
            frames += self._frame(b"\n")
        self._keep(rest)
        return frames

    def end(self) -> list[Frame]:
        """The last line, if no LF ended it."""
        return self._frame(b"")

    def _keep(self, piece: bytes) -> None:
        self._length += len(piece)
        if self._length > self._limit:
            raise too_large(self._limit)
        self._open.append(piece)

    def _frame(self, ending: bytes) -> list[Frame]:
        line = b"".join(self._open)
        self._open, self._length = [], 0
        return [Frame(line + ending, line)] if line.strip() else []


def sse(data: bytes, name: str | None = None) -> bytes:
    """The bytes of one server-sent event that carries `data`."""
    lines = b"".join(b"data: %b\n" % line for line in data.split(b"\n"))
    return (b"event: %b\n" % name.encode() if name else b"") + lines + b"\n"


def too_large(limit: int) -> UpstreamError:
    """The error for an event beyond `limit` bytes."""
    return UpstreamError(
        f"the upstream sent an event larger than {limit} bytes", code="event_too_large"
    )
