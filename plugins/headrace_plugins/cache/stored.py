"""An answer as it is kept: events without their framing, and the bytes that stand for them."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal, NamedTuple, Self, TypeAlias

import orjson

from headrace import Call, Dialect, Event, Reply, UpstreamError, Usage, assembled, sse, taken_apart

Framing: TypeAlias = Literal["json", "sse", "ndjson", "raw"]

_LEFT_OUT = (
    *("ratelimit", "x-ratelimit-", "x-headrace-", "x-request-id", "retry-after", "set-cookie"),
    *("openai-processing-ms", "cache-control", "age", "date", "server-timing"),
)
"""What the names of headers begin with that are about one exchange alone."""
_AS_IT_IS, _PACKED = b"\x00", b"\x01"


class Part(NamedTuple):
    """What one event carried."""

    after: float
    """Seconds after the first one."""
    data: bytes
    name: str | None = None


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A complete answer."""

    at: float
    """When it was given, in seconds since 1970."""
    framing: Framing
    parts: Sequence[Part]
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    usage: Usage | None = None

    def as_asked(self, call: Call) -> Self:
        """The same as a stream, or as a whole, whichever the call wants.

        Raises `UpstreamError` where what an upstream sent has no such form.
        """
        if self.framing == "raw" or not forms(call):
            return self
        streamed, wants = self.framing == "sse", call.dialect.streams(call)
        if streamed == wants:
            return self
        data = [part.data for part in self.parts]
        try:
            if wants:
                parts = [Part(0, chunk) for chunk in taken_apart(data[0])]
                return replace(self, framing="sse", parts=parts)
            return replace(self, framing="json", parts=[Part(0, assembled(data))])
        except (TypeError, ValueError, AttributeError, LookupError) as error:
            raise UpstreamError(
                "the upstream's answer cannot be told in another form", code="upstream_invalid"
            ) from error

    def packed(self, compress_above: float) -> bytes:
        """As bytes; compressed where they are more than so many."""
        told = {
            "at": self.at,
            "framing": self.framing,
            "status": self.status,
            "headers": dict(self.headers),
            "usage": asdict(self.usage) if self.usage else None,
            "parts": [(round(after, 4), len(data), name) for after, data, name in self.parts],
        }
        whole = b"".join([orjson.dumps(told), b"\n", *(part.data for part in self.parts)])
        if len(whole) <= compress_above:
            return _AS_IT_IS + whole
        return _PACKED + zlib.compress(whole, 1)

    @classmethod
    def unpacked(cls, packed: bytes, limit: int) -> Self | None:
        """What the bytes stand for; None where they make no sense, or would be more than `limit`.

        Another version may have written them.
        """
        try:
            return cls._read(_opened(packed, limit))
        except (zlib.error, ValueError, KeyError, TypeError):
            return None

    @classmethod
    def _read(cls, whole: bytes) -> Self:
        head, _, rest = whole.partition(b"\n")
        told = orjson.loads(head)
        parts, at = [], 0
        for after, length, name in told.pop("parts"):
            parts.append(Part(after, rest[at : at + length], name))
            at += length
        if at != len(rest):
            raise ValueError("it is cut off")
        usage = told.pop("usage")
        return cls(**told, parts=parts, usage=Usage(**usage) if usage else None)


def _opened(packed: bytes, limit: int) -> bytes:
    if packed[:1] != _PACKED:
        return packed[1:]
    opening = zlib.decompressobj()
    whole = opening.decompress(packed[1:], limit)
    if not opening.eof:
        raise ValueError("it is larger than what is ever kept")
    return whole


def forms(call: Call) -> bool:
    """Whether an answer to this call can be turned from a stream to a whole, and back."""
    return call.dialect.name == "openai" and call.operation in ("chat", "completion")


def kept_headers(reply: Reply) -> dict[str, str]:
    """What is worth keeping of a reply's headers, and who gave it."""
    kept = {k: v for k, v in reply.headers.items() if not k.lower().startswith(_LEFT_OUT)}
    if reply.framing in ("json", "sse"):  # it may be told in the other form
        kept.pop("content-type", None)
    if attempt := reply.attempt:
        kept["x-headrace-upstream"] = attempt.target.upstream
        if attempt.model and attempt.model.isascii() and attempt.model.isprintable():
            kept["x-headrace-model"] = attempt.model[:256]
    return kept


def part_of(event: Event, after: float, framing: Framing, dialect: Dialect) -> Part | None:
    """What is kept of an event: nothing of comments, nor of the end mark, which is put back."""
    if framing != "sse":
        return Part(after, event.raw)
    if event.data is None or event.raw == dialect.end or dialect.is_end(event):
        return None
    return Part(after, event.data, event.name)


def event_of(part: Part, framing: Framing) -> Event:
    """The event that a part stands for."""
    if framing == "sse":
        return Event(sse(part.data, part.name), part.data, part.name)
    return Event(part.data, part.data)
