"""Tokens that were verified, so that the next call with the same token costs next to nothing."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import NamedTuple

from headrace import Caller, Sha256
from headrace_plugins.jwt_auth.keys import Key, KeySet

_ENTRY = 2048
"""Bytes that an entry takes beside its claims."""
_CLAIMS = 8
"""How many times the room of its text what a token says takes once it was read."""


class _Entry(NamedTuple):
    caller: Caller
    key: Key
    until: float
    weight: int


class Verified:
    """Callers by the SHA-256 of the whole token that they showed, the least recent first.

    An entry counts until its token expires, and only as long as the key that verified it is there.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._weight = 0
        self._entries: OrderedDict[Sha256, _Entry] = OrderedDict()

    def get(self, token: Sha256, keys: KeySet) -> Caller | None:
        """Who showed this token, if it would be let in again."""
        entry = self._entries.get(token)
        if entry is None:
            return None
        if entry.until <= time.time() or entry.key not in keys:
            self._drop(token)
            return None
        self._entries.move_to_end(token)
        return entry.caller

    def put(self, token: Sha256, caller: Caller, key: Key, *, until: float, length: int) -> None:
        """Keep it; others go where there is no room."""
        self._drop(token)
        entry = _Entry(caller, key, until, _ENTRY + _CLAIMS * length)
        self._entries[token] = entry
        self._weight += entry.weight
        while self._weight > self._size:
            self._drop(next(iter(self._entries)))

    def _drop(self, token: Sha256) -> None:
        if entry := self._entries.pop(token, None):
            self._weight -= entry.weight
