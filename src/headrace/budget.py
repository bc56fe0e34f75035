"""How often upstreams are asked beyond first attempts: a storm of failures is not multiplied."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from math import inf

_SPARE = 3
"""Further attempts that are saved up at most, and failures in a row that make an upstream ill."""
_DEEPEST = -1000.0
"""Of more further attempts than this that were too many, the rest is forgotten."""
_KNOWN = 10.0
"""Seconds for which it counts how attempts ended."""
_MOST = 1000
"""Callers whose attempts have failed that are remembered."""


@dataclass
class Budget:
    """What calls that begin at one upstream may cost beyond their first attempts.

    Each place there (a model, or a route) and operation has an account of its own: that embeddings
    are answered says nothing about chats, nor does one model about another.
    """

    share: float = 0.2
    _accounts: dict[tuple[Hashable, str], Account] = field(
        default_factory=dict, init=False, repr=False
    )

    def at(self, place: Hashable, operation: str) -> Account:
        """The account of one place and operation."""
        key = place, operation
        if key not in self._accounts:
            self._accounts[key] = Account(self.share)
        return self._accounts[key]


@dataclass
class Account:
    """What calls of one kind that begin at one place may cost beyond their first attempts.

    A further attempt is one that comes after another one of its call failed. It is paid for when it
    starts, at whichever place it is made, by the account that the call began at, and is given back
    unless it fails. First attempts bring in `share` each, and three are there at the beginning. So
    of all attempts that come to nothing, those under way included, further ones are no more than
    that part, however slowly they fail.

    A place of which nothing bad is known is asked even where nothing is left: it most likely
    answers, and then it costs nothing. So one that is well is asked as often as others fail, with
    any number under way. Were it ill after all, what was spent is missing afterwards. It may be
    tried three times in ten seconds even where it is ill and nothing is left, for else nobody would
    notice that it is well (compare "Handling Overload" at sre.google, on deciding to retry).
    """

    share: float = 0.2
    _spare: float = field(default=_SPARE, init=False, repr=False)
    _illness: Illness = field(default_factory=lambda: Illness(), init=False, repr=False)

    def first(self) -> None:
        """Count a call that begins here."""
        self._save(self.share)

    def pays(self, asked: Account, who: str) -> bool:
        """Whether a call of `who` that began here may be asked once more, where `asked` is."""
        if self._spare < 1 and not asked._illness.may_be_tried(who):
            return False
        self._spare = max(_DEEPEST, self._spare - 1)
        asked._illness.tries(who)
        return True

    def ended(self, payer: Account | None, who: str, *, well: bool | None) -> None:
        """Count how an attempt of `who` here ended, None where that says nothing about the place.

        So it is where nobody waited for the end, and where the call itself was at fault.
        """
        if payer and well is not False:
            payer._save(1)
        if well is not None:
            self._illness.note(who, well=well)

    def _save(self, amount: float) -> None:
        self._spare = min(_SPARE + self.share, self._spare + amount)


class Illness:
    """Whether attempts at one place fail, and to whom.

    To a caller it is ill whose own last three attempts there have failed; to everybody, if its last
    three have, and not all of them were one caller's: what somebody asks may be all that is wrong.
    It is so until an attempt is answered, or ten seconds have passed without news.
    """

    def __init__(self) -> None:
        self._all = _Row()
        self._of: OrderedDict[str, _Row] = OrderedDict()
        """Those of callers whose last attempt has failed, the latest last."""

    def may_be_tried(self, who: str) -> bool:
        """Whether `who` may ask it where nothing is left: it is well, or was not tried lately."""
        all_are_ill = self._all.is_long and len(self._all.met) > 1
        row = self._all if all_are_ill else self._of.get(who)
        return row is None or not row.is_long or _now() - row.tried >= _KNOWN / _SPARE

    def tries(self, who: str) -> None:
        """Count a further attempt that begins."""
        for row in (self._all, self._of.get(who)):
            if row:
                row.tried = _now()

    def note(self, who: str, *, well: bool) -> None:
        """Count how an attempt of `who` ended."""
        if well:
            self._all = _Row()
            self._of.pop(who, None)
            return
        self._all.grow(who)
        self._of.setdefault(who, _Row()).grow(who)
        self._of.move_to_end(who)
        if len(self._of) > _MOST:
            self._of.popitem(last=False)


@dataclass
class _Row:
    """Failures in a row."""

    count: int = 0
    met: set[str] = field(default_factory=set)
    """Who has met them; of more than two callers, two."""
    last: float = -inf
    """When the last one ended."""
    tried: float = -inf
    """When the last further attempt began."""

    @property
    def is_long(self) -> bool:
        """Whether they make somebody ill."""
        return self.count >= _SPARE and _now() - self.last < _KNOWN

    def grow(self, who: str) -> None:
        """One more."""
        self.count, self.last = self.count + 1, _now()
        if len(self.met) < 2:
            self.met.add(who)


def _now() -> float:
    return asyncio.get_running_loop().time()
