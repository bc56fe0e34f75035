"""How often an upstream is asked beyond first attempts: a storm of failures is not multiplied."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

_WINDOW = 10
"""Seconds that count."""
_ALWAYS = 3
"""Failures of further attempts that are always let happen in that time."""


@dataclass
class Budget:
    """The further attempts at one upstream: those that come after another one of their call failed.

    One is allowed as long as those that failed in the last ten seconds are fewer than three, and
    `share` of the first attempts, and as many as have succeeded, all together. So an upstream that
    answers is asked as often as others fail, and one that fails is asked little more often than
    clients ask (compare "Handling Overload" at sre.google, on deciding to retry).
    """

    share: float = 0.2
    _seconds: deque[list[float]] = field(default_factory=deque, repr=False)
    """The second, and what it gave or took."""

    def allows(self) -> bool:
        """Whether another attempt may be made that is not its call's first."""
        since = asyncio.get_running_loop().time() - _WINDOW
        return sum(given for second, given in self._seconds if second > since) + _ALWAYS > 0

    def first(self) -> None:
        """Count a call's first attempt."""
        self._count(self.share)

    def ended(self, *, well: bool, further: bool) -> None:
        """Count how an attempt ended."""
        if well:
            self._count(1.0)
        elif further:
            self._count(-1.0)

    def _count(self, amount: float) -> None:
        now = float(int(asyncio.get_running_loop().time()))
        if self._seconds and self._seconds[-1][0] == now:
            self._seconds[-1][1] += amount
        else:
            self._seconds.append([now, amount])
        while self._seconds[0][0] <= now - _WINDOW:
            self._seconds.popleft()
