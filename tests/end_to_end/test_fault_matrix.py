"""The same faults for every kind of call, through both transports, counted at the upstreams.

Chats, embeddings and what is passed through, plain and streamed, run side by side; each has a route
of its own to two upstreams, `first` and `second`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest

from headrace.testing import Loopback
from headrace.testing.misbehaviour import (
    STIMULI,
    STREAM,
    Act,
    Behaviour,
    Pause,
    Received,
    Step,
    chunk,
    head,
    status,
)

from .course import KINDS, Answer, Course, Door, Kind, opened
from .serving import Note

ILL = status(500, {"error": {"message": "out of memory"}})
RETRY: Mapping[str, Any] = {"retry": {"attempts": 2, "wait": "10ms"}}
BREAKER: Mapping[str, Any] = {"breaker": {"cooldown": "1m"}}
PATIENT: Mapping[str, Any] = {"fallback": {"patience": "300ms"}}
RATE = 25
"""Calls of each kind in a second of a storm."""
COUNT = 110
"""Calls of each kind in a storm."""

Result = TypeVar("Result")


@dataclass
class Pair:
    """One kind of call, and the two upstreams of its route."""

    door: Door
    course: Course
    kind: Kind
    route: str

    def script(self, first: Behaviour, second: Behaviour | None = None) -> None:
        """What they do from now on; `second` is well unless something else is said."""
        self.course.acts[f"{self.route}-first"] = first
        self.course.acts[f"{self.route}-second"] = second or self.kind.good

    def asked(self, name: str) -> list[Received]:
        """The requests that one of them got."""
        return self.course.asked(f"{self.route}-{name}")

    @property
    def attempts(self) -> int:
        """How many requests both have got."""
        return len(self.asked("first")) + len(self.asked("second"))

    async def ask(self, *headers: str) -> Answer:
        """One call."""
        return await self.door.ask(self.kind, self.route, *headers)

    async def asks(self, count: int, rate: float = RATE) -> list[Answer]:
        """So many calls, so many a second, whether they are answered or not."""
        async with asyncio.TaskGroup() as group:
            asking = []
            for _ in range(count):
                asking.append(group.create_task(self.ask()))
                await asyncio.sleep(1 / rate)
        return [asked.result() for asked in asking]

    def whole(self, answer: Answer) -> bool:
        """Whether it is the good answer, all of it."""
        return answer.status == 200 and self.kind.is_whole(answer.body)


@dataclass(frozen=True)
class Family:
    """How the routes and upstreams of a test are configured."""

    chain: tuple[Any, ...] = ("fallback",)
    plugins: tuple[Any, ...] = ()
    timeouts: Mapping[str, str] | None = None


FAMILIES = {
    "storm": Family(plugins=(RETRY,)),
    "slow": Family(plugins=(RETRY,)),
    "silent": Family(chain=(PATIENT,), timeouts={"total": "900ms"}),
    "broken": Family(plugins=(RETRY, BREAKER)),
    "begun": Family(plugins=(RETRY,), timeouts={"idle": "300ms"}),
    "limited": Family(plugins=({"retry": {"attempts": 2}},)),
    "free": Family(plugins=({"retry": {"attempts": 2}},)),
    "lying": Family(),
    "healthy": Family(),
}
WAYS = ("fails", "hangs", "resets", "babbles", "hole", "fades", "flaps")
"""How one of two upstreams goes bad."""
for way in WAYS:
    FAMILIES[way] = Family(chain=(PATIENT,), plugins=(BREAKER,), timeouts={"connect": "300ms"})


def config() -> str:
    """A route and two upstreams for each family and kind."""
    upstreams: dict[str, Any] = {}
    routes: dict[str, Any] = {}
    for (name, family), kind in itertools.product(FAMILIES.items(), KINDS.values()):
        route = f"{name}-{kind.name}"
        targets = [f"{route}-first", f"{route}-second"]
        for target in targets:
            hole = target.startswith("hole") and target.endswith("first")
            base_url = "${HOLE}" if hole else f"${{UPSTREAM}}/{target}"
            upstreams[target] = {
                "forwarder": {"openai": {"base_url": base_url}},
                "plugins": list(family.plugins),
                **({"timeouts": dict(family.timeouts)} if family.timeouts else {}),
            }
        routes[kind.key(route)] = {"chain": list(family.chain), "targets": targets}
    return json.dumps({"server": {"auth": "none"}, "upstreams": upstreams, "routes": routes})


@pytest.fixture(scope="module")
def hole() -> Iterator[str]:
    """A server that takes no connection: one more than its queue holds is waiting."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        port: int = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module", params=["aiohttp", "httpx2"])
async def door(request: pytest.FixtureRequest, server: Loopback, hole: str) -> AsyncIterator[Door]:
    async with opened(request.param, config(), {"UPSTREAM": server.url, "HOLE": hole}) as door:
        yield door


@pytest.fixture
def course(upstream: Loopback) -> Course:
    course = Course(upstream)
    upstream.script(course)
    return course


def pairs(door: Door, course: Course, *families: str) -> list[Pair]:
    """The pairs of all kinds."""
    return [
        Pair(door, course, kind, f"{family}-{kind.name}")
        for family, kind in itertools.product(families, KINDS.values())
    ]


async def each(story: Callable[[Pair], Awaitable[Result]], pairs: list[Pair]) -> dict[str, Result]:
    """The same story of all pairs at once; what came of each."""
    async with asyncio.TaskGroup() as group:
        told = {pair.route: group.create_task(_told(story, pair)) for pair in pairs}
    return {route: task.result() for route, task in told.items()}


async def _told(story: Callable[[Pair], Awaitable[Result]], pair: Pair) -> Result:
    return await story(pair)


# Storms


def too_many(calls: int) -> float:
    """More attempts than this at both upstreams are too many for so many calls that fail.

    A fifth of them and three; and whatever is left, each may be tried every three seconds.
    """
    return 1.2 * calls + 3 + 4


async def storm(pair: Pair, ill: Behaviour) -> float:
    """All is well for a while, then both fail; the attempts for each call."""
    pair.script(pair.kind.good)
    assert all(map(pair.whole, await pair.asks(10)))
    before = pair.attempts

    pair.script(ill, ill)
    answers = await pair.asks(COUNT)

    attempts = pair.attempts - before
    assert {answer.status for answer in answers} <= {500, 502, 504}
    assert max(answer.attempts for answer in answers) <= 3
    assert attempts <= too_many(COUNT), pair.route
    return attempts / COUNT


def highest(found: Mapping[str, float]) -> str:
    """The highest figure of all kinds."""
    return f"{max(found.values()):.3f}"


async def test_a_storm_is_not_multiplied(door: Door, course: Course, record_property: Note) -> None:
    found = await each(lambda pair: storm(pair, ILL), pairs(door, course, "storm"))

    record_property(f"{door.name}: attempts per call in a storm", highest(found))


async def test_nor_is_one_of_failures_that_take_their_time(
    door: Door, course: Course, record_property: Note
) -> None:
    slow = (Pause(0.3), *ILL)

    found = await each(lambda pair: storm(pair, slow), pairs(door, course, "slow"))

    record_property(f"{door.name}: attempts per call in a slow storm", highest(found))


async def test_nor_is_one_of_silence(door: Door, course: Course, record_property: Note) -> None:
    found = await each(lambda pair: storm(pair, (Act.STALL,)), pairs(door, course, "silent"))

    record_property(f"{door.name}: attempts per call in a silent storm", highest(found))


async def test_when_both_are_broken_clients_are_told_from_memory(
    door: Door, course: Course
) -> None:
    async def story(pair: Pair) -> None:
        pair.script(ILL, ILL)
        while (await pair.ask()).attempts:
            assert pair.attempts <= 10
        before = pair.attempts

        answers = await asyncio.gather(*(pair.ask() for _ in range(10)))

        assert pair.attempts == before
        assert {(each.status, each.code) for each in answers} == {(503, "upstream_resting")}
        assert all(30 <= int(each.headers["retry-after"]) <= 60 for each in answers)

    await each(story, pairs(door, course, "broken"))


# One bad of two


def nonsense(kind: Kind) -> Behaviour:
    """What is no answer to such a call; of what is passed through, only HTTP is looked at."""
    return STIMULI["garbage" if kind.name.startswith("passed") else "html-200"]


def fading(kind: Kind) -> Behaviour:
    """Two of three fail."""
    turns = itertools.cycle((kind.good, ILL, ILL))
    return lambda _: next(turns)


def flapping(kind: Kind) -> Behaviour:
    """Well and ill in turns, three times a second."""
    return lambda _: (kind.good, ILL)[int(time.monotonic() * 3) % 2]


def bad(way: str, kind: Kind) -> Behaviour:
    """What the first of two upstreams does."""
    match way:
        case "hangs":
            return (Act.STALL,)
        case "resets":
            return (Act.RESET,)
        case "babbles":
            return nonsense(kind)
        case "fades":
            return fading(kind)
        case "flaps":
            return flapping(kind)
        case _:
            return ILL


async def test_two_seconds_after_one_of_two_went_bad_all_is_well(
    door: Door, course: Course, record_property: Note
) -> None:
    """The hole was never well; each of the others is for a while."""

    async def story(pair: Pair) -> tuple[int, int]:
        way = pair.route.partition("-")[0]
        pair.script(pair.kind.good)
        assert all(map(pair.whole, await pair.asks(2, rate=4)))

        pair.script(bad(way, pair.kind))
        early = await pair.asks(8, rate=4)
        before = len(pair.asked("first"))
        late = await pair.asks(4, rate=4)

        assert all(map(pair.whole, late)), pair.route
        if way in ("fails", "hangs", "resets", "babbles", "hole"):
            assert {(answer.upstream, answer.attempts) for answer in late} == {
                (f"{pair.route}-second", 1)
            }
            assert len(pair.asked("first")) == before
        if way == "hangs":
            for received in pair.asked("first")[2:]:
                await course.upstream.closed(received.connection)
        return sum(map(pair.whole, (*early, *late))), len(early) + len(late)

    found = await each(story, pairs(door, course, *WAYS))

    for way in WAYS:
        well, asked = (
            sum(each[n] for route, each in found.items() if route.startswith(way)) for n in (0, 1)
        )
        record_property(f"{door.name}: answered when one {way}", f"{well} of {asked}")


async def test_any_number_may_be_under_way_at_the_one_that_is_well(
    door: Door, course: Course, record_property: Note
) -> None:
    async def story(pair: Pair) -> int:
        pair.script(ILL, (Pause(0.5), *pair.kind.good))

        answers = await pair.asks(25, rate=100)

        assert all(map(pair.whole, answers))
        assert {answer.attempts for answer in answers} == {2}
        return len(answers)

    found = await each(story, pairs(door, course, "healthy"))
    record_property(f"{door.name}: answered while the other one fails", sum(found.values()))


# What a client has seen, and what it must not see


def begun(kind: Kind, end: Act) -> tuple[Step, ...]:
    """The first half of a good answer, then `end`."""
    if kind.streams:
        return (*kind.good[:3], Pause(0.05), end)
    return (head(200, "content-type: application/json", "content-length: 99") + b"{", end)


@pytest.mark.parametrize("end", [Act.CLOSE, Act.RESET, Act.STALL], ids=lambda end: end.name)
async def test_nobody_else_is_asked_once_something_went_out(
    door: Door, course: Course, end: Act
) -> None:
    async def story(pair: Pair) -> None:
        pair.script(begun(pair.kind, end))

        answer = await pair.ask()

        if pair.kind.name in ("chat", "embedding"):  # nothing has gone out of what is read whole
            assert pair.whole(answer)
            assert len(pair.asked("second")) == 1
        else:
            assert not pair.whole(answer)
            assert (answer.attempts, pair.attempts) == (1, 1)
            await course.upstream.closed(pair.asked("first")[0].connection)

    await each(story, pairs(door, course, "begun"))


LIES: Mapping[str, Behaviour] = {
    **{name: STIMULI[name] for name in ("invalid-json", "empty-200", "html-200", "rst", "101")},
    **{name: STIMULI[name] for name in ("garbage", "bad-status", "huge-header", "redirect")},
    "error in a success": status(200, {"error": {"message": "lie", "code": "lie"}}),
    "an empty stream": (STREAM, chunk(b": lie\n\n"), b"0\r\n\r\n"),
}
SEEN_IN_HTTP = {"rst", "101", "garbage", "bad-status", "huge-header", "redirect"}
"""What can be told from the head alone, and so of what is passed through."""


async def test_who_lies_is_not_believed(door: Door, course: Course) -> None:
    async def story(pair: Pair) -> None:
        for lie, behaviour in LIES.items():
            if pair.kind.path or lie in SEEN_IN_HTTP:
                pair.script(behaviour)
                answer = await pair.ask()
                assert pair.whole(answer), (pair.route, lie)
                assert answer.attempts == 2
                assert b"lie" not in answer.body

    await each(story, pairs(door, course, "lying"))


LIMITED = status(429, {"error": {"message": "slow down"}}, "retry-after-ms: 400")


async def test_while_another_is_free_nobody_waits_for_one_that_is_limited(
    door: Door, course: Course
) -> None:
    async def story(pair: Pair) -> None:
        pair.script(LIMITED)

        answer = await pair.ask()

        assert pair.whole(answer)
        assert (answer.upstream, answer.attempts) == (f"{pair.route}-second", 2)
        assert len(pair.asked("first")) == 1

    await each(story, pairs(door, course, "free"))


async def test_nobody_is_asked_again_before_it_wants_to_be(door: Door, course: Course) -> None:
    async def story(pair: Pair) -> None:
        times: list[float] = []

        def behaviour(_: Received) -> Iterator[Step]:
            times.append(time.monotonic())
            yield from pair.kind.good if len(times) > 1 else LIMITED

        pair.script(LIMITED, behaviour)

        answer = await pair.ask()

        assert pair.whole(answer)
        assert (answer.upstream, answer.attempts) == (f"{pair.route}-second", 3)
        assert 0.4 <= times[1] - times[0] < 2

    await each(story, pairs(door, course, "limited"))
