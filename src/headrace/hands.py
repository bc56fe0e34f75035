"""Upstreams that somebody lets rest: told by way of the store, so that all workers know."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from typing import Self

from headrace.options import Duration
from headrace.rests import Rests
from headrace.store import Store, Unavailable

logger = logging.getLogger("headrace")

_EVERY = 1.0
"""Seconds between two looks at what others were told."""
_WHY = "somebody lets it rest"


@dataclass(kw_only=True, eq=False)
class Hands:
    """Keeps upstreams at rest that were laid down by hand, here or at another worker or replica."""

    store: Store
    rests: Rests
    upstreams: tuple[str, ...]
    _touched: set[str] = field(default_factory=set)
    """What was told here since the last look began, which may not have seen it."""

    async def __aenter__(self) -> Self:
        """Begin to look."""
        self._looking = asyncio.create_task(self._look())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Look no more."""
        self._looking.cancel()
        await asyncio.wait((self._looking,))

    async def rest(self, upstream: str, seconds: float) -> None:
        """Let it rest for so long. Raises `Unavailable` where the store does not answer."""
        self._touched.add(upstream)
        until = time.time() + seconds
        await self.store.set(_key(upstream), str(until).encode(), ttl=seconds)
        logger.warning("upstream %s is not asked for %s: %s", upstream, Duration(seconds), _WHY)
        self.rests.resume((upstream, None))
        self._lay_down(upstream, until)

    async def resume(self, upstream: str) -> None:
        """Let it be asked again, whyever it rests here. Raises `Unavailable` as above."""
        self._touched.add(upstream)
        await self.store.delete(_key(upstream))
        logger.warning("upstream %s is asked again: somebody has asked for it", upstream)
        for place in [place for place in self.rests.all if place[0] == upstream]:
            self.rests.resume(place)

    async def _look(self) -> None:
        while True:
            try:
                await self._take_over()
            except Unavailable:
                pass  # the store says so itself
            except Exception:
                logger.exception("looking for upstreams that rest failed")
            await asyncio.sleep(_EVERY)

    async def _take_over(self) -> None:
        self._touched.clear()
        found = await asyncio.gather(*(self.store.get(_key(name)) for name in self.upstreams))
        for name, word in zip(self.upstreams, found, strict=True):
            rest = self.rests.at((name, None))
            if name in self._touched:
                continue
            if word:
                self._lay_down(name, float(word))
            elif rest and rest.why == _WHY:
                self.rests.resume((name, None))

    def _lay_down(self, upstream: str, until: float) -> None:
        # As long as the word stands, it rests; how long that is, others' clocks may see otherwise.
        left = max(until - time.time(), 2 * _EVERY)
        self.rests.rest((upstream, None), left, why=_WHY, closed=True)


def _key(upstream: str) -> str:
    return f"rests:{upstream}"
