"""What is known of one upstream and model: how its last calls went, and whether it is asked."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from headrace import Place

_SLOTS = 10
"""Parts of a window; the oldest one goes as a whole."""


@dataclass(kw_only=True)
class Circuit:
    """An upstream and a model there, as a breaker sees them."""

    place: Place
    broken: bool = False
    """Whether nobody but a probe may ask it."""
    probing: bool = False
    """Whether a probe is under way."""
    changes: int = 0
    """How often it broke and was mended. What began before the last time is no news any more."""
    cooldown: float = 0.0
    """How long it was to be left alone the last time, in seconds."""
    mended: float = 0.0
    """Since when it is whole, by the loop's clock."""
    why: str = ""
    """Why it broke."""
    told: bool = False
    """Whether other workers and replicas have been told that it is broken."""
    looked: float = float("-inf")
    """When it was last asked what others know, by the loop's clock."""
    in_a_row: int = 0
    """Failures since the last success."""
    _slots: deque[list[int]] = field(default_factory=deque, repr=False)
    """A part of the window, the calls that ended in it, and those of them that failed."""

    def __str__(self) -> str:
        upstream, model = self.place
        return f"upstream {upstream} ({model})" if model else f"upstream {upstream}"

    def note(self, window: float, *, failed: bool) -> None:
        """Count how a call ended."""
        self.in_a_row = self.in_a_row + 1 if failed else 0
        slot = _slot(window)
        if not self._slots or self._slots[-1][0] != slot:
            self._slots.append([slot, 0, 0])
        self._slots[-1][1] += 1
        self._slots[-1][2] += failed

    def counted(self, window: float) -> Counted:
        """What ended in the last `window` seconds."""
        while self._slots and self._slots[0][0] <= _slot(window) - _SLOTS:
            self._slots.popleft()
        calls, failures = (sum(slot[n] for slot in self._slots) for n in (1, 2))
        return Counted(calls, failures)

    def counts_anew(self) -> None:
        """Forget how calls ended: a window of another length has other parts."""
        self._slots.clear()

    def breaks_now(self, why: str) -> None:
        """Nobody but a probe may ask it from now on."""
        self.broken, self.why = True, why
        self._change()

    def is_mended(self) -> None:
        """Everybody may ask it again."""
        self.broken, self.mended = False, asyncio.get_running_loop().time()
        self._change()

    def _change(self) -> None:
        self.changes += 1
        self.told = False
        self.in_a_row = 0
        self._slots.clear()


class Counted(NamedTuple):
    """Calls, and those of them that failed."""

    calls: int
    failures: int


def _slot(window: float) -> int:
    return int(asyncio.get_running_loop().time() / window * _SLOTS)
