"""Where answers are kept: the store, as bytes of a bounded size; and how old they are."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass
from functools import cached_property

from headrace import Call, Size, Store, Unavailable
from headrace_plugins.cache.large import worked
from headrace_plugins.cache.question import Question
from headrace_plugins.cache.stored import Stored

_ROOM = 4
"""An answer with all that is told of it takes no more than so many times its own size."""
_GROWS = 8
"""What was compressed is so many times as large as it looks, by and large."""


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
        if not packed:
            return None
        size = len(packed) * (_GROWS if self.store.shared else 1)
        return await worked(size, lambda: Stored.unpacked(packed, self.largest * _ROOM + 100_000))

    async def turned(self, known: Stored, call: Call) -> Stored:
        """The same in the form that a call wants. Raises `UpstreamError` where it has none."""
        size = sum(len(part.data) for part in known.parts)
        return await worked(size, lambda: known.as_asked(call))

    def packed(self, answer: Stored) -> bytes:
        """An answer as it is kept."""
        return answer.packed(self.compress if self.store.shared else math.inf)

    async def put(self, key: str, packed: bytes) -> str:
        """Keep it; why it is not kept, if it is not."""
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
