"""What is known of targets: how many attempts run there, how long they take, how many fail.

Times are averaged as Finagle does it ("Peak EWMA", finagle-core, loadbalancer/PeakEwma.scala): up
to a longer time at once, down to shorter ones slowly, and towards zero as long as nothing is heard,
so that a target that was slow is tried again.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from typing import TypeAlias

from headrace import (
    PASSTHROUGH,
    Attempt,
    Call,
    CallError,
    Event,
    Next,
    Reply,
    Target,
    until_closed,
)

Kind: TypeAlias = tuple[str, bool]
"""An operation, and whether its answers are streams: only times of one kind can be compared."""

_ANSWER = 100
"""Times are compared for an answer of so many tokens."""
_PROMPT = 50
"""A plain answer is held to take the time of so many tokens before its first one."""
_SHORTEST = 10
"""A stream of fewer tokens says nothing of its pace."""
_SHARE = 0.05
"""The share of failures is about that of the last twenty attempts."""
_PENALTY = 60.0
"""Seconds that a failure is held to cost: as many as a silent upstream does."""


def kind_of(call: Call) -> Kind:
    """The kind of a call."""
    return call.operation, call.operation != PASSTHROUGH and call.dialect.streams(call)


class Average:
    """An average of what is noted now and then, in which the past counts less and less.

    Each sample has at least `weight` in it, however many there are in a time.
    """

    __slots__ = ("_at", "_decay", "_weight", "last")

    def __init__(self, decay: float, *, weight: float = 0.0) -> None:
        self._decay = decay
        self._weight = weight
        self._at = -math.inf
        self.last = 0.0
        """The average when something was noted last."""

    def at(self, now: float) -> float:
        """The average, and less of it the longer nothing was noted."""
        return self.last * self._kept(now)

    def note(self, sample: float, now: float, *, peak: bool = False) -> None:
        """Take in a sample; with `peak`, one that is larger is the average from now on."""
        weight = max(1 - self._kept(now), self._weight)
        average = self.last + (sample - self.last) * weight
        self.last = max(average, sample) if peak else average
        self._at = now

    def _kept(self, now: float) -> float:
        return math.exp((self._at - now) / self._decay)


class Latency:
    """How long calls of one kind take at one target, in seconds."""

    def __init__(self, decay: float, *, streamed: bool) -> None:
        self.streamed = streamed
        self.first = Average(decay)
        """To the first output of a stream, or to a plain answer of a hundred tokens."""
        self.token = Average(decay)
        """For each token of a stream after its first output."""
        self.known = False
        self.waiting = 0
        """Attempts without an answer yet."""

    def wait(self, now: float) -> float | None:
        """The wait for an answer; None where nothing is known.

        While somebody tries it, it counts as it was: one call finds out whether it still is slow.
        """
        if not self.known:
            return _PENALTY if self.waiting else None
        first, token = (
            average.last if self.waiting else average.at(now)
            for average in (self.first, self.token)
        )
        return first + token * _ANSWER


class Seen:
    """What is known of one target."""

    def __init__(self, decay: float) -> None:
        self._decay = decay
        self._latencies: dict[Kind, Latency] = {}
        self._failed = Average(decay, weight=_SHARE)
        self.running = 0
        """Attempts that are not closed."""

    def latency(self, kind: Kind) -> Latency:
        """How long calls of this kind take."""
        if kind not in self._latencies:
            self._latencies[kind] = Latency(self._decay, streamed=kind[1])
        return self._latencies[kind]

    def wait(self, kind: Kind, now: float) -> float | None:
        """Seconds that a call is held to wait here; None where nothing is known."""
        wait, failing = self.latency(kind).wait(now), self.failing(now)
        return failing or None if wait is None else wait + failing

    def failing(self, now: float) -> float:
        """Seconds that failures are held to cost, by the share of attempts that fail."""
        return self._failed.at(now) * _PENALTY

    def ended(self, *, failed: bool) -> None:
        """An attempt has come to its end, well or not.

        A client's faults count, too: they come to all targets alike, and a target that refuses
        everything at once would look like a quick one.
        """
        self._failed.note(float(failed), asyncio.get_running_loop().time())


class Watched:
    """One attempt, from its start to its close."""

    def __init__(self, latency: Latency) -> None:
        self._latency = latency
        self._time = asyncio.get_running_loop().time
        self._began = self._time()
        self._answered: float | None = None
        self._waited = 0.0
        latency.waiting += 1

    def answered(self, reply: Reply) -> Reply:
        """Its first output is here."""
        now = self._time()
        self._answered = now - self._began
        self._latency.waiting -= 1
        if not self._latency.streamed:
            return reply
        self._note(self._answered, now)
        return reply.through(self._reading)

    async def _reading(self, events: AsyncIterator[Event]) -> AsyncIterator[Event]:
        """All events. Only the time that they are waited for counts, not what the client takes."""
        asked = self._time()
        async for event in events:
            self._waited += self._time() - asked
            yield event
            asked = self._time()

    def closed(self, tokens: int | None) -> None:
        """It is over, after so many tokens, as far as that is known."""
        now = self._time()
        if self._answered is None:
            self._latency.waiting -= 1
            took = now - self._began
            if took > self._latency.first.at(now):  # an answer would have taken longer still
                self._note(took, now)
        elif not self._latency.streamed:
            size = 1.0 if tokens is None else (_PROMPT + _ANSWER) / (_PROMPT + tokens)
            self._note(self._answered * size, now)
        elif tokens and tokens >= _SHORTEST:
            self._latency.token.note(self._waited / tokens, now, peak=True)

    def _note(self, seconds: float, now: float) -> None:
        self._latency.first.note(seconds, now, peak=True)
        self._latency.known = True


class Measures:
    """What is known of each target; a plugin, which finds it out around every attempt.

    Targets are told apart as they are configured. Models that clients choose are all one, so that
    there are no more than the configuration names.
    """

    def __init__(self, decay: float) -> None:
        self._decay = decay
        self._seen: dict[tuple[str, str | None], Seen] = {}

    def of(self, target: Target) -> Seen:
        """What is known of a target."""
        place = target.upstream, target.model
        if place not in self._seen:
            self._seen[place] = Seen(self._decay)
        return self._seen[place]

    @until_closed
    async def __call__(self, call: Call, call_next: Next) -> AsyncIterator[Reply]:
        """Watch one attempt."""
        attempt = call.told(Attempt)
        assert attempt
        seen = self.of(attempt.target)
        watched = Watched(seen.latency(kind_of(call)))
        seen.running += 1
        try:
            yield watched.answered(await call_next(call))
            seen.ended(failed=False)
        except CallError:
            seen.ended(failed=True)
            raise
        finally:
            seen.running -= 1
            watched.closed(attempt.usage.output if attempt.usage else None)
