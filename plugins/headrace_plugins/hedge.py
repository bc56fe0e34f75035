"""Ask the next target beside one that is slow, and take the first good reply."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Self

from headrace import (
    PASSTHROUGH,
    Call,
    Duration,
    Next,
    Reply,
    Rests,
    first_good,
    leaves,
    place_of,
)

_BURST = 3
"""Extra asks that are saved up at most."""
_ENOUGH = 20
"""Calls that must be known before they say anything."""
_LAST = 128
"""Calls of one kind that are remembered."""
_MOST = 1000
"""Kinds that are remembered; clients may name models."""


@dataclass(kw_only=True)
class Hedge:
    """Ask the next target beside one that is slow, and take the first good reply.

    The first target is asked alone, as long as it is as quick as it should be. A failure never
    wins: the next target takes its place at once. When one has won, the others are cancelled, and
    their connections closed, before its reply goes on.
    """

    divides: ClassVar = True
    keeps_answers: ClassVar = True

    after: Duration | Literal["p95"] = "p95"
    """How long a target may take to its first output before the next is asked beside it.

    `p95` is as long as 95 of 100 calls of the same kind took there lately, in this process."""
    default: Duration = field(default_factory=lambda: Duration(2))
    """What stands for `p95` until 20 calls have shown it."""
    most: int = 1
    """How many targets are asked beside the first one at most.

    All together make no more attempts than `server: {attempts: …}` says."""
    share: float = 0.1
    """How many targets may be asked beside others for each call, on average; 0.1 is one in ten."""
    rests: Rests = field(default_factory=Rests.of_server)

    def __post_init__(self) -> None:
        if self.most < 1:
            raise ValueError(f"most must be at least 1, found {self.most}")
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be more than 0 and at most 1, found {self.share}")
        self._times = _Times()
        self._spare: float = _BURST

    def follows(self, before: Self) -> None:
        """Go on with what is known of how long targets take."""
        self._times, self._spare = before._times, before._spare

    async def __call__(self, call: Call, call_next: Next) -> Reply:
        """Start with the first target of the route; those that rest come last."""
        self._spare = min(_BURST, self._spare + self.share)

        async def timed(call: Call) -> Reply:
            now = asyncio.get_running_loop().time
            began = now()
            try:
                reply = await call_next(call)
            except asyncio.CancelledError:
                # Were those too slow to win not counted, 95 of 100 would take ever less time.
                if now() - began >= (delay := self._delay(call)):
                    self._times.note(_kind(call), delay)
                raise
            self._times.note(_kind(call), now() - began)
            return reply

        call = call.replace(targets=self.rests.awake_first(call))
        return await first_good(
            call, timed, by="hedge", width=1, delay=self._delay, wider=self._wider
        )

    def _delay(self, call: Call) -> float:
        if self.after == "p95":
            return self._times.most_take(_kind(call)) or self.default
        return self.after

    def _wider(self, width: int) -> bool:
        """Spend one of the spare asks, if there is one."""
        if width > self.most or self._spare < 1:
            return False
        self._spare -= 1
        return True


def _kind(call: Call) -> Hashable:
    """Calls that should take the same time: of the same targets, for the same, streamed or not."""
    places = tuple(place_of(target, call) for target in leaves(call.targets))
    streams = call.operation != PASSTHROUGH and call.dialect.streams(call)
    return places, call.operation, streams


class _Times:
    """How long the last calls of each kind took to their first output, in seconds."""

    def __init__(self) -> None:
        self._last: OrderedDict[Hashable, deque[float]] = OrderedDict()

    def note(self, kind: Hashable, seconds: float) -> None:
        """Take in one call. Of many kinds, those without one for longest are forgotten."""
        self._last.setdefault(kind, deque(maxlen=_LAST)).append(seconds)
        self._last.move_to_end(kind)
        if len(self._last) > _MOST:
            self._last.popitem(last=False)

    def most_take(self, kind: Hashable) -> float | None:
        """What 95 of 100 took no longer than; None where too few are known."""
        last = sorted(self._last.get(kind, ()))
        return last[len(last) * 95 // 100] if len(last) >= _ENOUGH else None
