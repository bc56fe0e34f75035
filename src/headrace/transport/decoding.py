"""Bodies that come gzipped or deflated, inflated piece by piece and never beyond a limit.

We ask for no encoding, so most bodies pass through; this is for upstreams that encode all the same.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

from headrace.errors import UpstreamError

INFLATED = 100 * 1024 * 1024
"""How many bytes a body may inflate to by default."""

_PIECE = 64 * 1024
_GZIP, _ZLIB, _RAW = 31, 15, -15  # zlib's names for its formats: window bits


def decoded(
    pieces: AsyncGenerator[bytes, None], encoding: str, limit: int
) -> AsyncGenerator[bytes, None]:
    """`pieces` with their `Content-Encoding` undone; what has none passes through as it is.

    Raises `UpstreamError` `upstream_encoding` for an encoding that is unknown, damaged or one of
    several, and `upstream_too_large` beyond `limit` inflated bytes.
    """
    match encoding.strip().lower():
        case "" | "identity":
            return pieces
        case "gzip" | "x-gzip":
            return _inflated(pieces, Inflater(limit, gzip=True))
        case "deflate":
            return _inflated(pieces, Inflater(limit))
        case other:
            raise UpstreamError(
                f"the upstream encoded its answer as {other[:40]!r}; "
                "gzip and deflate can be read, and nothing was asked for",
                code="upstream_encoding",
                again=False,
            )


async def _inflated(
    pieces: AsyncGenerator[bytes, None], inflater: Inflater
) -> AsyncGenerator[bytes, None]:
    async with aclosing(pieces):
        async for piece in pieces:
            for inflated in inflater.feed(piece):
                yield inflated
                if len(inflated) == _PIECE:  # a little can become a lot: let others run
                    await asyncio.sleep(0)
    inflater.end()


class Inflater:
    """Inflates one body, without I/O: gzip, or what HTTP calls deflate."""

    def __init__(self, limit: int, *, gzip: bool = False) -> None:
        self._limit = limit
        self._left = limit
        self._gzip = gzip
        self._member: zlib._Decompress | None = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What `data` inflates to, in pieces of at most 64 KiB."""
        more = bool(data)
        while more:
            if self._member is None or self._member.eof:
                self._member = zlib.decompressobj(self._format(data))
            try:
                piece = self._member.decompress(data, _PIECE)
            except zlib.error as error:
                raise _damaged() from error
            self._left -= len(piece)
            if self._left < 0:
                raise UpstreamError(
                    f"the upstream's answer inflates to more than {self._limit} bytes",
                    code="upstream_too_large",
                    again=False,
                )
            if piece:
                yield piece
            # gzip may go on with another member (RFC 1952, 2.2); a full piece may have more behind.
            data = self._member.unconsumed_tail or self._member.unused_data
            more = bool(data) or (len(piece) == _PIECE and not self._member.eof)

    def _format(self, data: bytes) -> int:
        """By window bits: deflate means zlib's format (RFC 9110, 8.4.1.2); some send it bare."""
        if self._gzip:
            return _GZIP
        return _ZLIB if data[0] & 0x0F == 8 else _RAW

    def end(self) -> None:
        """The body is over: raises unless it was complete."""
        if self._member is not None and not self._member.eof:
            raise _damaged()


def _damaged() -> UpstreamError:
    return UpstreamError(
        "the upstream's answer cannot be inflated: it is damaged", code="upstream_encoding"
    )
