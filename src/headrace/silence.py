"""Attempts at one place that nobody has answered yet: whose they are, and for how long."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

_LONG = 3.0
"""Seconds without an answer that say nothing yet."""


class Silence:
    """Whether attempts at one place are under way of which none is answered for long.

    Long is three seconds, and as long as the last answer took. To a caller it is silent whose own
    attempts are all that wait; to everybody, if those of several callers do.
    """

    def __init__(self) -> None:
        self._all = _Waiting()
        self._of: dict[str, _Waiting] = {}
        self._took = 0.0
        self._news = asyncio.Event()

    def begins(self, who: str) -> None:
        """Count an attempt of `who` that begins."""
        self._all.begins()
        self._of.setdefault(who, _Waiting()).begins()

    def ends(self, who: str, *, well: bool | None, took: float) -> None:
        """Count one that has ended after so many seconds."""
        own = self._of[who]
        for waiting in (self._all, own):
            waiting.count -= 1
            if well:
                waiting.since = _now()
        if not own.count:
            del self._of[who]
        if well:
            self._took = took
        if well is not None or not own.count:
            self._news.set()
            self._news = asyncio.Event()

    def is_long(self, who: str) -> bool:
        """Whether `who` had better wait for news."""
        waiting = self._all if len(self._of) > 1 else self._of.get(who)
        return waiting is not None and _now() - waiting.since > max(_LONG, self._took)

    async def news(self) -> None:
        """Wait until it is known how an attempt ended."""
        await self._news.wait()


@dataclass
class _Waiting:
    """Attempts under way."""

    count: int = 0
    since: float = field(default_factory=lambda: _now())
    """Since when there are some and none is answered."""

    def begins(self) -> None:
        if not self.count:
            self.since = _now()
        self.count += 1


def _now() -> float:
    return asyncio.get_running_loop().time()
