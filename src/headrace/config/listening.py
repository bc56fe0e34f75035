"""Addresses to listen on, as they are written: `127.0.0.1:9090`, `[::1]:9090`."""

from __future__ import annotations

import re
from typing import NamedTuple, Self


class Address(NamedTuple):
    """A host and a port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """The one that is written. Raises `ValueError` where it is none."""
        found = _WRITTEN.fullmatch(text)
        if found is None or int(found["port"]) > 65535:
            raise ValueError("is no address; write one such as 127.0.0.1:9090 or [::1]:9090")
        return cls(found["six"] or found["host"], int(found["port"]))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def checked(text: str) -> str:
    """The text of an address. Raises `ValueError` where it is none."""
    return str(Address.parse(text))


_WRITTEN = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[^\s:/\[\]]+)):(?P<port>[0-9]{1,5})"
)
