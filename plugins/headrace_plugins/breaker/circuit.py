"""What is known of one upstream and model: how its last calls went, and whether it is asked."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field
from typing import NamedTuple

from headrace import Place

_SLOTS = 10
"""Parts of a window; the oldest one goes as a whole."""
_MOST = 1000
"""Callers whose calls have failed that are remembered."""


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
    by: str | None = None
    """The only one who has met the failures that broke it; None if it is more than one."""
    in_a_row: Counter[str] = field(default_factory=Counter, repr=False)
    """Failures since the last success, by who met them."""
    _slots: deque[Slot] = field(default_factory=deque, repr=False)
    _own: OrderedDict[str, Own] = field(default_factory=OrderedDict, repr=False)
    """Of callers whose last call has failed, the latest last."""

    def __str__(self) -> str:
        upstream, model = self.place
        return f"upstream {upstream} ({model})" if model else f"upstream {upstream}"

    def begin(self, window: float, who: str) -> None:
        """Count a call of `who` that begins."""
        callers = self._now(window).callers
        if len(callers) < 2:
            callers.add(who)

    def note(self, window: float, who: str, *, failed: bool) -> None:
        """Count how a call of `who` ended."""
        slot = self._now(window)
        slot.calls[who] += 1
        if not failed:
            self.in_a_row.clear()
            self._own.pop(who, None)
            return
        slot.failures[who] += 1
        self.in_a_row[who] += 1
        self._hold(who, Own(self.own(who).in_a_row + 1))

    def own(self, who: str) -> Own:
        """How the calls of one caller went."""
        return self._own.get(who) or Own()

    def is_alone(self, who: str) -> bool:
        """Whether nobody else has asked in the window, or met a failure since the last success."""
        callers = [slot.callers for slot in self._slots]
        return set(self.in_a_row).union(*callers) <= {who}

    def counted(self) -> Counted:
        """What ended in the window."""
        calls = sum(slot.calls.total() for slot in self._slots)
        return Counted(calls, sum(slot.failures.total() for slot in self._slots))

    def without_the_worst(self) -> Counted:
        """The same, without the calls of who met most failures."""
        failures = sum((slot.failures for slot in self._slots), Counter[str]())
        [(worst, most)] = failures.most_common(1)
        others = sum(slot.calls.total() - slot.calls[worst] for slot in self._slots)
        return Counted(others, failures.total() - most)

    def counts_anew(self) -> None:
        """Forget how calls ended: a window of another length has other parts."""
        self._slots.clear()

    def breaks_now(self, why: str, by: str | None) -> None:
        """Nobody but a probe may ask it from now on."""
        self.broken, self.why, self.by = True, why, by
        self._change()

    def is_mended(self) -> None:
        """Everybody may ask it again."""
        self.broken, self.mended = False, asyncio.get_running_loop().time()
        self._change()

    def is_left_to(self, who: str, failures: int, until: float) -> None:
        """It is whole but for the only one who has met its failures; the next one breaks it."""
        self.broken, self.by = False, None
        self._change()
        self.in_a_row[who] = failures
        self._hold(who, Own(failures, until))

    def _hold(self, who: str, own: Own) -> None:
        self._own[who] = own
        self._own.move_to_end(who)
        if len(self._own) > _MOST:
            self._own.popitem(last=False)

    def _now(self, window: float) -> Slot:
        number = _slot(window)
        while self._slots and self._slots[0].number <= number - _SLOTS:
            self._slots.popleft()
        if not self._slots or self._slots[-1].number != number:
            self._slots.append(Slot(number))
        return self._slots[-1]

    def _change(self) -> None:
        self.changes += 1
        self.told = False
        self.in_a_row.clear()
        self._slots.clear()
        self._own.clear()


@dataclass
class Own:
    """How the last calls of one caller went, while it is not broken."""

    in_a_row: int = 0
    """Failures since its last success."""
    until: float = 0.0
    """Until when it is not asked for this caller, by the loop's clock."""


@dataclass(frozen=True)
class Slot:
    """A part of a window."""

    number: int
    callers: set[str] = field(default_factory=set)
    """Whose calls began in it; of more than two, two."""
    calls: Counter[str] = field(default_factory=Counter)
    """Those that ended in it, by who made them."""
    failures: Counter[str] = field(default_factory=Counter)
    """Those of them that failed."""


class Counted(NamedTuple):
    """Calls, and those of them that failed."""

    calls: int
    failures: int

    def reach(self, rate: float) -> bool:
        """Whether this part of them failed, if there are any."""
        return self.calls > 0 and self.failures >= rate * self.calls


def _slot(window: float) -> int:
    return int(asyncio.get_running_loop().time() / window * _SLOTS)
