"""Where a JWK Set comes from: an address, an issuer that tells the address, or a file."""

from __future__ import annotations

import asyncio
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import orjson

from headrace import Transport, fetch_json

PATIENCE = 2.0
"""Seconds that fetching takes at most, whatever is asked on the way."""
LARGEST = 1024 * 1024
"""Bytes of a document."""
_WELL_KNOWN = "/.well-known/openid-configuration"


class Source(Protocol):
    """Gives the document as it is now."""

    @property
    def name(self) -> str:
        """What to call it in the log, and among gateways that share a store."""

    async def fetch(self) -> Any:
        """The document. Raises `UpstreamError`, `OSError` or `ValueError`."""


@dataclass(frozen=True, kw_only=True)
class Address:
    """A JWK Set at a URL."""

    name: str
    transport: Transport

    async def fetch(self) -> Any:
        """What is there; redirects are not followed."""
        return await _fetch(self.transport, self.name)


@dataclass(frozen=True, kw_only=True)
class Issuer:
    """A JWK Set whose URL the issuer tells (OpenID Connect Discovery 1.0, 4)."""

    name: str
    transport: Transport

    async def fetch(self) -> Any:
        """What is at the `jwks_uri` of the issuer, asked anew each time: it may move."""
        told = await _fetch(self.transport, self.name.removesuffix("/") + _WELL_KNOWN)
        if not isinstance(told, dict) or told.get("issuer") != self.name:
            raise ValueError("what it says of itself names another issuer")
        uri = told.get("jwks_uri")
        uri = uri if isinstance(uri, str) else ""
        try:
            check_url(uri, also_http=_plain(self.name))
        except ValueError as error:
            raise ValueError(f"its jwks_uri {error}") from None
        return await _fetch(self.transport, uri)


@dataclass(kw_only=True)
class File:
    """A JWK Set in a file, read again where another file is there or it was written to."""

    name: str
    _seen: tuple[int, ...] = field(default=(), init=False)
    _read: Any = field(default=None, init=False)
    _reading: asyncio.Future[Any] | None = field(default=None, init=False)

    async def fetch(self) -> Any:
        """What is in it. A disk that hangs keeps one thread, however often it is asked."""
        if self._reading is None:
            self._reading = asyncio.get_running_loop().run_in_executor(None, self.read)
        await asyncio.wait((self._reading,))
        reading, self._reading = self._reading, None
        return reading.result()

    def read(self) -> Any:
        """The same, in a thread or before anything runs."""
        path = Path(self.name)
        status = path.stat()
        seen = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
        if seen != self._seen:
            if status.st_size > LARGEST or not stat.S_ISREG(status.st_mode):
                raise ValueError(f"it is no file of at most {LARGEST} bytes")
            self._read = orjson.loads(path.read_bytes())
            self._seen = seen
        return self._read


def check_url(url: str, *, also_http: bool) -> None:
    """Raise `ValueError`, the end of a sentence, for what is no URL to fetch keys from."""
    schemes = ("https", "http") if also_http else ("https",)
    try:
        parts = urlsplit(url)
        usable = parts.scheme in schemes and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not url.isprintable() or not url.isascii() or " " in url:
        raise ValueError(f"must be a URL that begins with {' or '.join(schemes)}:// and a host")
    if parts.username is not None or parts.fragment:
        raise ValueError("must have no user and no '#'")


def _plain(url: str) -> bool:
    return urlsplit(url).scheme == "http"


async def _fetch(transport: Transport, url: str) -> Any:
    return await fetch_json(transport, url, {}, patience=PATIENCE, limit=LARGEST)
