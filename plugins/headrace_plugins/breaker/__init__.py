"""Leave an upstream alone that fails, and find out by single calls when it is well again."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, Self

from headrace import (
    Call,
    Duration,
    Failure,
    Next,
    Place,
    Reply,
    Rests,
    Store,
    Target,
    TimedOut,
    UpstreamError,
    leaves,
    place_of,
    resting,
    who_asks,
)
from headrace_plugins.breaker.circuit import Circuit
from headrace_plugins.breaker.faults import is_fault, is_impatience, named
from headrace_plugins.breaker.others import Others, Word

logger = logging.getLogger("headrace.breaker")

_MOMENT = 0.5
"""Seconds after which others may have found it well."""


@dataclass(kw_only=True)
class Breaker:
    """Leave an upstream alone that fails, and find out by single calls when it is well again.

    Once too many calls have failed, nobody asks it any more: calls go to the next target, or are
    refused at once with a hint when to come back. After a cool-down a single call is let through,
    the probe. If that is answered, all others are let through again; if it fails, the next
    cool-down is twice as long. Workers and replicas that share a store believe each other.
    Failures that a single caller meets, while others do not, are a matter of that caller alone.
    """

    failures: int = 5
    """How many calls may fail in a row until it is left alone."""
    rate: float = 0.5
    """The part of its calls that may fail in a `window` until it is left alone."""
    least: int = 20
    """How many calls there must be in a `window` for `rate` to count."""
    window: Duration = field(default_factory=lambda: Duration(10))
    """How long a call counts for `rate`."""
    when: list[Failure] | None = None
    """What counts as a failure, and nothing else does; else 5xx, a refusal of the gateway's key,
    and whatever is no answer. A 429 is none: it is well, and says itself when to come back."""
    cooldown: Duration = field(default_factory=lambda: Duration(5))
    """How long it is left alone, less a random part of up to a quarter.

    It doubles each time that the probe fails, or that all is well for no longer than this."""
    longest: Duration = field(default_factory=lambda: Duration(300))
    """No cool-down is longer than this."""
    rests: Rests = field(default_factory=Rests.of_server)
    store: Store = field(default_factory=Store.of_server)

    of_upstream: ClassVar = True
    keeps_answers: ClassVar = True

    def __post_init__(self) -> None:
        if self.failures < 1 or self.least < 1:
            raise ValueError("failures and least must be at least 1")
        if not 0 < self.rate <= 1:
            raise ValueError(f"rate must be more than 0 and at most 1, found {self.rate:g}")
        if not self.window > 0:
            raise ValueError("window must be more than 0")
        if not 0 < self.cooldown <= self.longest:
            raise ValueError("cooldown must be more than 0, and at most longest")
        self._circuits: dict[Place, Circuit] = {}
        self._others = Others(self.store, self._heard)

    def follows(self, before: Self) -> None:
        """Go on with what is known of upstreams that failed."""
        self._circuits = before._circuits
        if self.window != before.window:
            for circuit in self._circuits.values():
                circuit.counts_anew()

    async def __aenter__(self) -> Self:
        """Nothing has to be opened."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Leave nothing running."""
        await self._others.aclose()

    async def __call__(self, call: Call, call_next: Next) -> Reply:
        """Ask, unless it has failed too often. Raises `UpstreamError` where it is not asked."""
        target = next(leaves(call.targets))
        place = place_of(target, call)
        if place not in self._circuits:
            self._circuits[place] = Circuit(place=place)
        circuit, who = self._circuits[place], who_asks(call)
        self._others.look(circuit)
        if circuit.broken and circuit.by not in (None, who):
            self._leave_to(circuit, circuit.by)
        circuit.begin(self.window, who)
        if not circuit.broken:
            self._check_own(circuit, who, target, call)
            return await self._ask(circuit, target, call, call_next)
        async with self._turn(circuit, target, call):
            return await self._ask(circuit, target, call, call_next)

    def _leave_to(self, circuit: Circuit, who: str) -> None:
        """Leave to a single caller what broke by its calls alone, for now others ask, too."""
        rest, until = self.rests.at(circuit.place), _now()
        if rest and rest.why == circuit.why:
            self.rests.resume(circuit.place)
            until = rest.until
        circuit.is_left_to(who, self.failures, until)
        self._others.take_back(circuit)

    def _check_own(self, circuit: Circuit, who: str, target: Target, call: Call) -> None:
        """Raise `UpstreamError` where it fails for this caller alone, but once a cool-down."""
        own = circuit.own(who)
        if own.in_a_row >= self.failures:
            if (left := own.until - _now()) > 0:
                raise resting(target, call, left)
            own.until = _now() + self.cooldown

    @asynccontextmanager
    async def _turn(self, circuit: Circuit, target: Target, call: Call) -> AsyncIterator[None]:
        """Be the only probe. Raises `UpstreamError` where it is too early, or there is another."""
        rest = self.rests.at(circuit.place)
        if circuit.probing or (rest and rest.closed):
            raise resting(target, call, rest.left if rest else _MOMENT)
        circuit.probing = True
        try:
            async with self._others.turn(circuit) as mine:
                if not mine:
                    self.rests.rest(circuit.place, _MOMENT, why=circuit.why, closed=True)
                    raise resting(target, call, _MOMENT)
                yield
        finally:
            circuit.probing = False

    async def _ask(self, circuit: Circuit, target: Target, call: Call, call_next: Next) -> Reply:
        attempts, made = call.record.attempts, len(call.record.attempts)
        began, changes, who = _now(), circuit.changes, who_asks(call)
        try:
            reply = await call_next(call)
        except (UpstreamError, TimedOut) as error:
            # What is raised may be an older failure once more; the attempt has its own.
            own = [attempt for attempt in attempts[made:] if attempt.target == target]
            failure = own[-1].error or error if own else None
            if failure and not is_impatience(failure, call, _now() - began):
                self._failed(circuit, changes, who, failure)
            raise
        if circuit.broken and changes == circuit.changes:
            self._mend(circuit)
            changes = circuit.changes
        return reply.on_close(partial(self._closed, circuit, changes, who))

    async def _closed(
        self, circuit: Circuit, changes: int, who: str, error: BaseException | None
    ) -> None:
        """Count how a reply ended. A client that leaves says nothing about the upstream."""
        if isinstance(error, UpstreamError):
            self._failed(circuit, changes, who, error)
        elif error is None and changes == circuit.changes:
            circuit.note(self.window, who, failed=False)

    def _failed(
        self, circuit: Circuit, changes: int, who: str, error: UpstreamError | TimedOut
    ) -> None:
        """Count a failure, unless it is no news or not the upstream's; it may be one too many."""
        if changes != circuit.changes or not is_fault(error, self.when):
            return
        circuit.note(self.window, who, failed=True)
        alone, last = circuit.is_alone(who), f"the last: {named(error)}"
        if circuit.broken:
            by = who if circuit.by == who else None
            self._break(circuit, f"a probe has failed: {named(error)}", by)
        elif why := self._too_many(circuit, alone):
            self._break(circuit, f"{why}, {last}", who if alone else None)
        else:
            self._hold(circuit, who, last)

    def _too_many(self, circuit: Circuit, alone: bool) -> str:
        """What failed too often; nothing where that may be one caller's doing, of several."""
        in_a_row = circuit.in_a_row.total()
        if in_a_row >= self.failures and (alone or len(circuit.in_a_row) > 1):
            return f"{in_a_row} failures in a row"
        all_ = circuit.counted()
        if all_.calls < self.least or not all_.reach(self.rate):
            return ""
        if not alone and not circuit.without_the_worst().reach(self.rate):
            return ""
        return f"{all_.failures} of {all_.calls} calls failed in {self.window}"

    def _hold(self, circuit: Circuit, who: str, last: str) -> None:
        """Ask it no more for a caller whose own calls have failed too often."""
        own = circuit.own(who)
        own.until = _now() + self.cooldown
        if own.in_a_row == self.failures:
            logger.warning(
                "%s is not asked for a caller who alone meets failures, %s", circuit, last
            )

    def _break(self, circuit: Circuit, why: str, by: str | None) -> None:
        early = circuit.broken or _now() - circuit.mended < circuit.cooldown
        circuit.cooldown = float(
            min(self.longest, circuit.cooldown * 2) if early else self.cooldown
        )
        # At random, or all that share a store would come back at once.
        seconds = circuit.cooldown * random.uniform(0.75, 1)  # noqa: S311  no secret
        if not circuit.broken:
            logger.warning("%s is not asked for %.3g s: %s", circuit, seconds, why)
        circuit.breaks_now(why, by)
        self.rests.rest(circuit.place, seconds, why=why, closed=True)
        self._others.tell(circuit, _now() + seconds)

    def _mend(self, circuit: Circuit) -> None:
        circuit.is_mended()
        logger.info("%s answers again", circuit)
        self._others.take_back(circuit)

    def _heard(self, circuit: Circuit, word: Word | None) -> None:
        """What others say of it; nothing any more, where they have found it well."""
        rest = self.rests.at(circuit.place)
        if word and not circuit.broken:
            logger.warning("%s is not asked: another worker or replica says: %s", circuit, word.why)
            circuit.breaks_now(word.why, word.who)
            circuit.cooldown = word.cooldown
            self.rests.rest(circuit.place, _MOMENT, why=word.why, closed=True)
        elif not word and circuit.told and rest and rest.why == circuit.why:
            self.rests.resume(circuit.place)


def _now() -> float:
    return asyncio.get_running_loop().time()
