"""Storms in mixed traffic: clients' faults, other operations, one caller's prompts change little.

Whole gateways before scripted upstreams. Time is turned, so that minutes of calls take a moment.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from headrace import Call, Reply
from headrace.testing import Client, Clock, Upstream, gateway, refuses, says
from headrace.testing.script import Act

from .serving import Note

RETRY = """
    server: {auth: none}
    upstreams: {a: {forwarder: mock, plugins: [retry: {attempts: 3, wait: 20ms}]}}
    routes: {m: a, /v1/files*: a}
    """
FALLBACK = """
    server: {auth: none}
    upstreams: {a: mock, b: mock}
    routes: {m: {targets: [a, b], chain: [fallback]}}
    """
BREAKER = """
    server: {auth: none}
    upstreams: {a: {forwarder: mock, plugins: [breaker]}}
    routes: {m: a}
    """
BOTH = """
    server: {auth: none}
    upstreams:
      a: {forwarder: mock, plugins: [retry: {attempts: 3, wait: 20ms}, breaker]}
      b: {forwarder: mock, plugins: [breaker]}
    routes: {m: {targets: [a, b], chain: [fallback]}}
    """
RATE = 50
TRIED = 4
"""What is ill may be tried every three seconds, whatever is left; for storms of ten seconds."""


@dataclass(frozen=True)
class Asked:
    """A call of a storm, and who makes it."""

    says: str = "hi"
    who: str = "192.0.2.1"
    path: str = "/v1/chat/completions"

    @property
    def request(self) -> Mapping[str, Any]:
        """How it is made."""
        if self.path.startswith("/v1/files"):
            return {"method": "GET", "path": self.path}
        said: dict[str, Any] = {"input": self.says}
        if self.path == CHAT.path:
            said = {"messages": [{"role": "user", "content": self.says}]}
        return {"method": "POST", "path": self.path, "json": {"model": "m", **said}}


CHAT = Asked()
OTHER = Asked(who="192.0.2.2")
BAD = Asked("a fault")
POISON = Asked("poison", who="198.51.100.7")
EMBEDDING = Asked(path="/v1/embeddings")
FILE = Asked(path="/v1/files/x")


@dataclass
class Storm:
    """What came of the calls of a storm, and what the upstreams were asked."""

    upstream: Upstream = field(default_factory=Upstream)
    answers: Counter[tuple[Asked, int]] = field(default_factory=Counter)
    times: list[float] = field(default_factory=list)
    """Seconds that each call took."""

    @property
    def calls(self) -> int:
        """How many there were."""
        return self.answers.total()

    @property
    def attempts(self) -> int:
        """How many requests the upstreams have got."""
        return len(self.upstream.asked)

    def answered(self, *asked: Asked) -> float:
        """The part of such calls that were answered."""
        of = {
            status: sum(self.answers[each, status] for each in asked) for _, status in self.answers
        }
        return of.get(200, 0) / sum(of.values())


async def raged(
    config: str,
    acts: Callable[[str, Call], Act],
    *mix: Asked,
    count: int = 300,
    first: tuple[Asked, ...] = (),
) -> Storm:
    """Fifty calls a second as in `mix`, over and over; before them, `first`, one by one."""
    storm, clock = Storm(), Clock.running()

    async def act(upstream: Upstream, call: Call) -> Reply:
        reply: Reply = await acts(upstream.asked[-1], call)(upstream, call)
        return reply

    storm.upstream.script(act)
    made = gateway(config, upstream=storm.upstream)

    async def ask(asked: Asked) -> None:
        began = clock.now
        response = await Client(made).request(**asked.request, client=(asked.who, 1))
        await response.read()
        storm.answers[asked, response.status] += 1
        storm.times.append(clock.now - began)

    async with made.lifespan(), asyncio.TaskGroup() as group:
        for asked in first:
            await ask(asked)
        for number in range(count):
            group.create_task(ask(mix[number % len(mix)]))
            await asyncio.sleep(1 / RATE)
    return storm


def late(act: Act, seconds: float) -> Act:
    """The same, but it takes its time."""

    async def acts(upstream: Upstream, call: Call) -> Reply:
        await asyncio.sleep(seconds)
        reply: Reply = await act(upstream, call)
        return reply

    return acts


def chats_fail(name: str, call: Call) -> Act:
    """Chats fail, but not those that are the client's own fault; nothing else does."""
    if call.operation == "embedding":
        return says("hello")
    if call.operation != "chat":
        return refuses(404)
    return refuses(400) if b"a fault" in call.body else refuses(500)


def poisoned(name: str, call: Call) -> Act:
    """`a` is down, `b` is well, but not for what one caller says."""
    return refuses(500) if name == "a" or b"poison" in call.body else says("hello")


def slowly_poisoned(name: str, call: Call) -> Act:
    """The same, but what fails at `b` takes its time."""
    if name == "b" and b"poison" in call.body:
        return late(refuses(500), 8)
    return poisoned(name, call)


def weak(name: str, call: Call) -> Act:
    """All is well but for what one caller says."""
    return refuses(500) if b"poison" in call.body else says("hello")


@pytest.fixture(autouse=True)
def turned(clock: Clock) -> None:
    clock.jumps = True


@pytest.mark.parametrize(
    ("config", "mix"),
    [
        pytest.param(RETRY, [CHAT], id="all fail"),
        pytest.param(RETRY, [BAD, CHAT, CHAT, CHAT], id="every 4th is a client's fault"),
        pytest.param(RETRY, [BAD, CHAT], id="every 2nd is a client's fault"),
        pytest.param(RETRY, [EMBEDDING, CHAT, CHAT], id="every 3rd is an embedding"),
        pytest.param(RETRY, [FILE, CHAT, CHAT, CHAT], id="every 4th is a file that is not there"),
        pytest.param(RETRY, [BAD, CHAT, OTHER], id="two callers, and a fault"),
        pytest.param(FALLBACK, [BAD, CHAT, CHAT, CHAT], id="fallback, and a client's fault"),
        pytest.param(BOTH, [BAD, CHAT, OTHER], id="fallback, breakers, two callers, and a fault"),
    ],
)
async def test_a_storm_is_not_multiplied_whatever_else_is_asked(
    config: str, mix: list[Asked], record_property: Note, request: pytest.FixtureRequest
) -> None:
    storm = await raged(config, chats_fail, *mix)

    record_property("attempts per call", f"{storm.attempts / storm.calls:.2f}")
    others = storm.answers[EMBEDDING, 200] + storm.answers[FILE, 404]
    assert storm.attempts - others <= 1.2 * (storm.calls - others) + 3 + TRIED
    assert storm.answered(CHAT) == 0


@pytest.mark.parametrize(("seconds", "count"), [(3, 30), (6, 30), (12, 60), (25, 30)])
async def test_of_a_fallback_that_fails_slowly_only_the_first_wait_is_too_much(
    seconds: int, count: int, record_property: Note
) -> None:
    def acts(name: str, call: Call) -> Act:
        return refuses(500) if name == "a" else late(refuses(500), seconds)

    storm = await raged(FALLBACK, acts, CHAT, OTHER, count=count * RATE)

    record_property(f"{seconds} s, attempts per call", f"{storm.attempts / storm.calls:.2f}")
    further, tried = storm.attempts - storm.calls, TRIED * count / 10
    assert further <= max(seconds * RATE, 0.2 * storm.calls) + 3 + tried


async def test_a_slow_fallback_that_is_well_answers_everybody(record_property: Note) -> None:
    """It had been idle. Until its first answer it looks like one that fails slowly."""

    def acts(name: str, call: Call) -> Act:
        return refuses(500) if name == "a" else late(says("hello"), 12)

    storm = await raged(FALLBACK, acts, CHAT, OTHER, count=60 * RATE)

    record_property("seconds, the slowest call", f"{max(storm.times):.1f}")
    assert storm.answered(CHAT, OTHER) == 1
    assert max(storm.times) < 2 * 12, "nobody waits for more than its own answer"


@pytest.mark.parametrize(
    ("config", "acts", "mix"),
    [
        pytest.param(FALLBACK, poisoned, [CHAT, *[POISON] * 3], id="a fallback, 3 of 4 calls"),
        pytest.param(FALLBACK, poisoned, [CHAT, *[POISON] * 9], id="a fallback, 9 of 10 calls"),
        pytest.param(BREAKER, weak, [CHAT, POISON], id="a breaker, half of the calls"),
        pytest.param(BREAKER, weak, [CHAT, *[POISON] * 9], id="a breaker, 9 of 10 calls"),
        pytest.param(BOTH, poisoned, [CHAT, *[POISON] * 9], id="both, 9 of 10 calls"),
    ],
)
async def test_what_one_caller_asks_leaves_the_others_answered(
    config: str, acts: Callable[[str, Call], Act], mix: list[Asked], record_property: Note
) -> None:
    storm = await raged(config, acts, *mix, count=400)

    record_property("others answered", f"{storm.answered(CHAT):.0%}")
    assert storm.answered(CHAT) >= 0.95
    further = storm.attempts - storm.calls - storm.answers[CHAT, 200]
    assert further <= 0.2 * storm.calls + 3 + TRIED


@pytest.mark.parametrize("poison", [9, 199])
async def test_nor_does_what_fails_slowly(poison: int, record_property: Note) -> None:
    mix = [CHAT, *[POISON] * poison]
    storm = await raged(FALLBACK, slowly_poisoned, *mix, count=30 * RATE)

    record_property("others answered", f"{storm.answered(CHAT):.0%}")
    assert storm.answered(CHAT) == 1


async def test_nor_does_it_keep_those_away_who_come_later(record_property: Note) -> None:
    """While it was alone, the whole upstream was left alone."""
    storm = await raged(BREAKER, weak, *[POISON] * 24, CHAT, first=(POISON,) * 20, count=750)

    record_property("others answered", f"{storm.answered(CHAT):.0%}")
    assert storm.answered(CHAT) >= 0.95


@pytest.mark.parametrize(
    "mix",
    [
        pytest.param([CHAT], id="one caller"),
        pytest.param([CHAT, OTHER], id="two callers"),
        pytest.param([*[CHAT] * 40, OTHER], id="two callers, one of them now and then"),
        pytest.param([BAD, CHAT, OTHER], id="and a client's fault"),
    ],
)
async def test_an_outage_opens_the_breaker_at_once_whoever_asks(mix: list[Asked]) -> None:
    """Both were answered a moment ago. One alone has five failures, and the other one its own."""
    well = [says("hello")] * 2

    def acts(name: str, call: Call) -> Act:
        return well.pop() if well else chats_fail(name, call)

    storm = await raged(BREAKER, acts, *mix, first=(OTHER, CHAT), count=100)

    failed = sum(storm.answers[each, 502] for each in (CHAT, OTHER))
    refused = sum(storm.answers[each, 503] for each in (CHAT, OTHER))
    assert 5 <= failed <= 5 + (mix.count(CHAT) == 40)
    assert failed + refused == sum(number % len(mix) >= mix.count(BAD) for number in range(100))


async def test_one_of_two_that_fails_costs_nobody_an_answer(record_property: Note) -> None:
    def acts(name: str, call: Call) -> Act:
        return refuses(500) if name == "a" else says("hello")

    storm = await raged(FALLBACK, acts, CHAT, OTHER, CHAT)

    record_property("answered", f"{storm.answered(CHAT, OTHER):.0%}")
    assert storm.answered(CHAT, OTHER) == 1
