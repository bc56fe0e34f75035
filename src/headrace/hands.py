"""Upstreams that somebody lets rest: told by way of the store, so that all workers know."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from typing import Self

import orjson

from headrace.options import Duration
from headrace.rests import Rests
from headrace.store import Store, Unavailable

logger = logging.getLogger("headrace")

_EVERY = 1.0
"""Seconds between two looks at what others were told."""
_TURN = 5.0
"""Seconds after which who writes and has died is out of the way."""
_KEY = "rests"
"""Where it stands until when which upstreams rest."""
_WHY = "somebody lets it rest"


@dataclass(kw_only=True, eq=False)
class Hands:
    """Keeps upstreams at rest that were laid down by hand, here or at another worker or replica."""

    store: Store
    rests: Rests
    upstreams: tuple[str, ...]
    _touched: set[str] = field(default_factory=set)
    """What was told here since the last look began, which may not have seen it."""
    _known: dict[str, float] = field(default_factory=dict)
    """Until when which upstreams rest, as the store has said last."""
    _brought: dict[str, float] = field(default_factory=dict)
    """The same of the store before this one, which this one does not know yet."""

    def follows(self, before: Hands) -> None:
        """Bring along what rests, into another store."""
        if before.store is not self.store:
            self._brought = {**before._brought, **before._known}

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
        until = time.time() + seconds
        await self._write(upstream, until)
        logger.warning("upstream %s is not asked for %s: %s", upstream, Duration(seconds), _WHY)
        self.rests.resume((upstream, None))
        self._lay_down(upstream, until)

    async def resume(self, upstream: str) -> None:
        """Let it be asked again, whyever it rests here. Raises `Unavailable` as above."""
        await self._write(upstream, None)
        logger.warning("upstream %s is asked again: somebody has asked for it", upstream)
        for place in [place for place in self.rests.all if place[0] == upstream]:
            self.rests.resume(place)

    async def _write(self, upstream: str, until: float | None) -> None:
        """Say until when an upstream rests, beside those that rest already; None is not at all."""
        self._touched.add(upstream)
        async with self.store.lease(_KEY, 1, ttl=_TURN):
            known = {**await self._read(), upstream: until}
            lasting = {name: at for name, at in known.items() if at and at > time.time()}
            self._known = lasting
            if lasting:
                ttl = max(lasting.values()) - time.time()
                await self.store.set(_KEY, orjson.dumps(lasting), ttl=ttl)
            else:
                await self.store.delete(_KEY)
        self._brought.pop(upstream, None)

    async def _read(self) -> dict[str, float]:
        found: dict[str, float] = orjson.loads(await self.store.get(_KEY) or b"{}")
        return found

    async def _look(self) -> None:
        while True:
            try:
                for name, until in [*self._brought.items()]:
                    await self._write(name, until)
                await self._take_over()
            except Unavailable:
                pass  # the store says so itself
            except Exception:
                logger.exception("looking for upstreams that rest failed")
            await asyncio.sleep(_EVERY)

    async def _take_over(self) -> None:
        self._touched.clear()
        found = self._known = await self._read()
        for name in self.upstreams:
            rest, until = self.rests.at((name, None)), found.get(name, 0.0)
            if name in self._touched:
                continue
            if until > time.time():
                self._lay_down(name, until)
            elif rest and rest.why == _WHY:
                self.rests.resume((name, None))

    def _lay_down(self, upstream: str, until: float) -> None:
        # The word lasts as long as the rest; how long that is, this clock may see otherwise.
        left = max(until - time.time(), 2 * _EVERY)
        self.rests.rest((upstream, None), left, why=_WHY, closed=True)
