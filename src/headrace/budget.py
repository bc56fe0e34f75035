"""How often upstreams are asked beyond first attempts: a storm of failures is not multiplied."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from math import inf

_SPARE = 3
"""Further attempts that are saved up at most, and failures in a row that make an upstream ill."""
_DEEPEST = -1000.0
"""Of more further attempts than this that were too many, the rest is forgotten."""
_KNOWN = 10.0
"""Seconds for which it counts how attempts ended."""


@dataclass
class Budget:
    """What calls that begin at one upstream may cost beyond their first attempts.

    A further attempt is one that comes after another one of its call failed. It is paid for when it
    starts, at whichever upstream it is made, by the budget of the one that the call began at, and
    is given back unless it fails. First attempts bring in `share` each, and three are there at the
    beginning. So of all attempts that come to nothing, those under way included, further ones are
    no more than that part, however slowly they fail.

    An upstream of which nothing bad is known is asked even where nothing is left: it most likely
    answers, and then it costs nothing. So one that is well is asked as often as others fail, with
    any number under way. Were it ill after all, what was spent is missing afterwards. Ill is one
    whose last three attempts have failed, until it answers again or ten seconds have passed without
    news; it may be tried three times in ten seconds even where nothing is left, for else nobody
    would notice that it is well (compare "Handling Overload" at sre.google, on deciding to retry).
    """

    share: float = 0.2
    _spare: float = field(default=_SPARE, init=False, repr=False)
    _in_a_row: int = field(default=0, init=False, repr=False)
    """Failures of attempts here since the last one that was answered."""
    _news: float = field(default=-inf, init=False, repr=False)
    """When the last attempt here ended."""
    _tried: float = field(default=-inf, init=False, repr=False)
    """When the last further attempt here began."""

    def first(self) -> None:
        """Count a call that begins here."""
        self._save(self.share)

    def pays(self, asked: Budget) -> bool:
        """Whether a call that began here may be asked once more, at the upstream of `asked`."""
        now = _now()
        ill = asked._in_a_row >= _SPARE and now - asked._news < _KNOWN
        if ill and self._spare < 1 and now - asked._tried < _KNOWN / _SPARE:
            return False
        self._spare = max(_DEEPEST, self._spare - 1)
        asked._tried = now
        return True

    def ended(self, payer: Budget | None, *, well: bool | None) -> None:
        """Count how an attempt here ended, None where nobody waited for its end."""
        if payer and well is not False:
            payer._save(1)
        if well is not None:
            self._in_a_row = 0 if well else self._in_a_row + 1
            self._news = _now()

    def _save(self, amount: float) -> None:
        self._spare = min(_SPARE + self.share, self._spare + amount)


def _now() -> float:
    return asyncio.get_running_loop().time()
