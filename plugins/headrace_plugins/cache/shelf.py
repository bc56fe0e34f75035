"""Where answers are kept: the store, as bytes of a bounded size; and how old they are."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass
from functools import cached_property

from headrace import Size, Store, Unavailable
from headrace_plugins.cache.question import Question
from headrace_plugins.cache.stored import Stored

_ROOM = 4
"""An answer with all that is told of it takes no more than so many times its own size."""


@dataclass(kw_only=True)
class Shelf:
    """Keeps answers in `store`: for `ttl` seconds as good ones, for `lasts` at all."""

    store: Store
    largest: Size
    compress: Size
    ttl: float
    lasts: float

    async def get(self, asking: Question, key: str) -> Stored | None:
        """What is kept under a key. A store that does not answer has nothing, and is left alone."""
        if not asking.stores:
            return None
        try:
            packed = await self.store.get(key)
        except Unavailable:
            asking.stores = False
            asking.note.why = "the store does not answer"
            return None
        return Stored.unpacked(packed, self.largest * _ROOM + 100_000) if packed else None

    async def put(self, key: str, answer: Stored) -> str:
        """Keep it; why it is not kept, if it is not."""
        packed = answer.packed(self.compress if self.store.shared else math.inf)
        try:
            kept = await self.store.set(key, packed, ttl=self.lasts)
        except Unavailable:
            return "the store does not answer"
        return "" if kept else "too large for the store"

    def age(self, known: Stored) -> float:
        """How many seconds ago it was given."""
        return max(0.0, self.now() - known.at)

    def is_fresh(self, known: Stored, *, beyond: float = 0) -> bool:
        """Whether it is still good, or was until `beyond` seconds ago."""
        return self.age(known) <= self.ttl + beyond

    def now(self) -> float:
        """Seconds since 1970, by a clock that never goes back."""
        return self._offset + asyncio.get_running_loop().time()

    @cached_property
    def _offset(self) -> float:
        return time.time() - asyncio.get_running_loop().time()
