"""Many replicas that keep one limit: the real plugin and store, hours of calls, a clock by hand.

Nothing here depends on the machine: the clock stands still while replicas think, chance is seeded.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from random import Random
from statistics import median
from typing import Any, TypeAlias, TypeVar

from headrace import Call, Memory, RateLimited, Reply, Step, Unavailable
from headrace.testing import ClockLoop, call, settled
from headrace_plugins.rate_limit import RateLimit

from ..plugins.rate_limit.gates import policy

RATE, BURST = 1, 60
"""Calls a second, and how many may come at once: `60/minute`."""
REPLICAS = 100
HOUR = 3600.0
ASKED = 3 * RATE
"""Calls a second that clients make: three times what is allowed."""


Pick: TypeAlias = Callable[[Random, int], int]
"""Which replica of so many gets a call."""


class Still(ClockLoop):
    """An event loop whose clock goes on only where somebody turns it."""

    def time(self) -> float:
        """What it was turned to."""
        return self.ahead


class Away(Memory):
    """A store for all, that can be out of reach."""

    gone = False

    def begin_anew(self) -> None:
        """Forget everything."""
        self.__post_init__()

    async def apply(self, *steps: Step) -> list[tuple[float, ...]]:
        """As memory does, where it is in reach."""
        if self.gone:
            raise Unavailable("out of reach")
        return await super().apply(*steps)


@dataclass
class Fleet:
    """Replicas behind a load balancer, and what they have let in."""

    seed: int
    replicas: int = REPLICAS
    """What each believes about how many there are."""
    limit: Mapping[str, object] = field(default_factory=lambda: {"requests": f"{RATE * 60}/minute"})
    store: Away = field(default_factory=Away)
    running: list[RateLimit] = field(default_factory=list)
    asked: int = 0
    let_in: list[tuple[float, RateLimit]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self._loop = asyncio.get_running_loop()

    def scale(self, count: int) -> None:
        """Have so many replicas; those that go are taken by chance."""
        while len(self.running) > count:
            self.running.pop(self.random.randrange(len(self.running)))
        while len(self.running) < count:
            self.running.append(self._replica())

    def _replica(self) -> RateLimit:
        limits = policy(name="all", by=[], **self.limit)
        return RateLimit(store=self.store, policies=[limits], replicas=self.replicas)

    @property
    def now(self) -> float:
        """Seconds since it began."""
        return self._loop.time()

    async def serve(self, seconds: float, pick: Pick = Random.randrange) -> None:
        """Calls for so long, at no regular times; each goes to the replica that `pick` says."""
        until = self.now + seconds
        while (when := self.now + self.random.expovariate(ASKED)) < until:
            self.turn(when)
            await self.ask(self.running[pick(self.random, len(self.running))])
        self.turn(until)

    def turn(self, to: float) -> None:
        """Put the clock forward."""
        assert isinstance(self._loop, Still)
        self._loop.ahead = to

    async def ask(self, replica: RateLimit) -> None:
        """One call, which is over at once."""
        self.asked += 1
        try:
            reply = await replica(call(), _answers)
        except RateLimited:
            return
        self.let_in.append((self.now, replica))
        await reply.aclose()

    def most_above(self) -> float:
        """By how much the calls of any stretch of time exceed what fills up in it, at most."""
        return above([when for when, _ in self.let_in])

    def shares(self) -> list[int]:
        """How many calls each replica has let in, those that let in none included."""
        counts = Counter(id(replica) for _, replica in self.let_in)
        return sorted(counts[id(replica)] for replica in self.running)


def above(times: list[float]) -> float:
    """Of all stretches of time, the most calls in one beyond `RATE` for as long as it lasts."""
    most, least = 0.0, 0.0
    for number, when in enumerate(times):
        least = min(least, number - RATE * when)
        most = max(most, number + 1 - RATE * when - least)
    return most


async def _answers(_: Call) -> Reply:
    return Reply.plain({"object": "chat.completion", "choices": [{}]})


@dataclass(frozen=True)
class Outcome:
    """What became of one situation."""

    situation: str
    asked: int
    let_in: int
    allowed: float
    """What the limit says of so much time: the burst, and the rate."""
    above: float
    """The most in any stretch of time, beyond the rate: the burst, as it was in truth."""
    shares: tuple[int, float, int]
    """What the least, the middle, and the busiest replica let in."""


def outcome(situation: str, fleet: Fleet) -> Outcome:
    """What a fleet has come to."""
    shares = fleet.shares()
    return Outcome(
        situation=situation,
        asked=fleet.asked,
        let_in=len(fleet.let_in),
        allowed=BURST + RATE * fleet.now,
        above=fleet.most_above(),
        shares=(shares[0], median(shares), shares[-1]),
    )


# Situations

Result = TypeVar("Result")
Situation: TypeAlias = Callable[[], Coroutine[Any, Any, Result]]


async def together() -> Outcome:
    """All replicas share the store."""
    fleet = Fleet(1)
    fleet.scale(REPLICAS)
    await fleet.serve(HOUR)
    return outcome(f"{REPLICAS} replicas, one store", fleet)


async def lopsided() -> Outcome:
    """The balancer sends half of the calls to a single replica."""
    fleet = Fleet(2)
    fleet.scale(REPLICAS)
    await fleet.serve(HOUR, lambda chance, count: chance.choice((0, chance.randrange(count))))
    return outcome("half of the calls to one of them", fleet)


async def coming_and_going() -> Outcome:
    """An autoscaler adds and takes away replicas, every five minutes."""
    fleet = Fleet(3, replicas=200)
    for count in (100, 150, 200, 120, 60, 20, 50, 90, 140, 180, 130, 100):
        fleet.scale(count)
        await fleet.serve(HOUR / 12)
    return outcome("20 to 200 replicas, coming and going", fleet)


async def lost() -> Outcome:
    """Nobody reaches the store."""
    fleet = Fleet(4)
    fleet.scale(REPLICAS)
    fleet.store.gone = True
    await fleet.serve(HOUR)
    return outcome("no store, `replicas: 100`", fleet)


async def lost_and_lopsided() -> Outcome:
    """Nobody reaches the store, and ten of the replicas get all calls."""
    fleet = Fleet(5)
    fleet.scale(REPLICAS)
    fleet.store.gone = True
    await fleet.serve(HOUR, lambda chance, _: chance.randrange(10))
    return outcome("no store, ten of the 100 get all calls", fleet)


async def lost_and_many() -> Outcome:
    """Nobody reaches the store, and there are more replicas than they believe."""
    fleet = Fleet(6, replicas=50)
    fleet.scale(REPLICAS)
    fleet.store.gone = True
    await fleet.serve(HOUR)
    return outcome("no store, `replicas: 50` with 100", fleet)


async def lost_and_found() -> Outcome:
    """The store is away for ten minutes of the hour."""
    fleet = Fleet(7)
    fleet.scale(REPLICAS)
    await fleet.serve(HOUR / 3)
    fleet.store.gone = True
    await fleet.serve(HOUR / 6)
    fleet.store.gone = False
    await fleet.serve(HOUR / 2)
    return outcome("the store away for ten minutes", fleet)


async def begun_anew() -> Outcome:
    """The store comes back with nothing in it."""
    fleet = Fleet(8)
    fleet.scale(REPLICAS)
    await fleet.serve(HOUR / 2)
    fleet.store.begin_anew()
    await fleet.serve(HOUR / 2)
    return outcome("the store restarted, and empty", fleet)


SITUATIONS: tuple[Situation[Outcome], ...] = (
    together,
    lopsided,
    coming_and_going,
    begun_anew,
    lost_and_found,
    lost,
    lost_and_lopsided,
    lost_and_many,
)


# What is held


SLOTS, LEASE = 20, 60.0


@dataclass(frozen=True)
class Held:
    """What became of slots whose holders die."""

    most: int
    """How many calls of living replicas ran at the same time, at most."""
    longest: float
    """Seconds for which slots of the dead were missed, at most."""
    deaths: int


@dataclass
class Mortal:
    """Calls that last, at replicas that may die."""

    fleet: Fleet
    running: list[tuple[float, int, Reply, RateLimit]] = field(default_factory=list)
    """When each ends, its number, what is to be closed then, and where it runs."""
    lost: list[Reply] = field(default_factory=list)
    """What nobody will close."""

    async def ask(self, number: int) -> None:
        """One call, at any replica."""
        replica = self.fleet.random.choice(self.fleet.running)
        with suppress(RateLimited):
            reply = await replica(call(), _answers)
            ends = self.fleet.now + self.fleet.random.expovariate(1 / 30)
            heappush(self.running, (ends, number, reply, replica))

    async def end(self) -> None:
        """Close what is over by now."""
        while self.running and self.running[0][0] <= self.fleet.now:
            await heappop(self.running)[2].aclose()

    async def kill(self) -> None:
        """Let the replica die that runs the most; another one takes its place."""
        at = Counter(id(each[3]) for each in self.running)
        victim = max(self.fleet.running, key=lambda replica: at[id(replica)])
        self.lost += [each[2] for each in self.running if each[3] is victim]
        self.running = [each for each in self.running if each[3] is not victim]
        heapify(self.running)
        await victim.__aexit__()
        self.fleet.running = [each for each in self.fleet.running if each is not victim]
        self.fleet.scale(len(self.fleet.running) + 1)

    async def aclose(self) -> None:
        """Leave nothing open."""
        for reply in (*self.lost, *(each[2] for each in self.running)):
            await reply.aclose()
        for replica in self.fleet.running:
            await replica.__aexit__()


async def dying() -> Held:
    """An hour of calls for every slot and more; every five minutes a replica dies."""
    fleet = Fleet(9, limit={"concurrent": SLOTS})
    fleet.scale(50)
    calls = Mortal(fleet)
    deaths, died, most, longest, number = 0, 0.0, 0, 0.0, 0
    while fleet.now < HOUR:
        fleet.turn(fleet.now + fleet.random.expovariate(2))
        await settled()
        await calls.end()
        if fleet.now > 300 * (deaths + 1):
            deaths, died = deaths + 1, fleet.now
            await calls.kill()
        number += 1
        await calls.ask(number)
        most = max(most, len(calls.running))
        if died and len(calls.running) == SLOTS:
            longest, died = max(longest, fleet.now - died), 0.0
    await calls.aclose()
    return Held(most, longest, deaths)


def simulated(situation: Situation[Result]) -> Result:
    """What becomes of a situation, on a clock that nobody but it turns."""
    with asyncio.Runner(loop_factory=Still) as runner:
        return runner.run(situation())
