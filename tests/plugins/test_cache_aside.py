"""`cache`: observers are told of work that goes on without the call it was begun for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from headrace import Call, Observers, Record, Reply
from headrace.testing import Client, Clock, Upstream, ask, down, gateway, raw, says, settled
from headrace_plugins.cache import Cache
from headrace_plugins.observers.access_log import line
from headrace_plugins.race import Race

from .cache.asking import answer, asked
from .cache.tap import Tap

STALE = """
    upstreams: {a: mock}
    routes: {m: {chain: [cache: {ttl: 60s, stale_while_revalidate: 60s}], targets: a}}
    """
SHORT = """
    upstreams: {a: {forwarder: mock, timeouts: {total: 10s}}}
    routes: {m: {chain: [cache], targets: a}}
    """
RACE = """
    upstreams: {a: mock, b: mock}
    routes: {m: {chain: [race, cache], targets: [a, b]}}
    """


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


def watched(text: str, upstream: Upstream) -> tuple[Any, list[Record]]:
    """A gateway, and the records that its observers are told."""
    records: list[Record] = []
    gate = gateway(text, upstream=upstream)
    gate.edge.observers = (records.append,)
    return gate, records


async def test_a_new_answer_for_an_old_one_has_a_record_of_its_own(
    upstream: Upstream, clock: Clock
) -> None:
    upstream.script(says("old"), says("new", usage=(30, 20)))
    gate, records = watched(STALE, upstream)
    async with gate.lifespan():
        client = Client(gate)
        await (await client.chat(model="m")).read()
        clock.advance(90)
        stale = await client.chat(model="m")
        await stale.read()
        await settled()

    _, given, renewed = sorted(records, key=lambda record: record.aside)
    assert (given.cache and given.cache.status, given.attempts) == ("stale", [])
    assert renewed.id == given.id == stale.headers["x-request-id"]
    assert (renewed.route, renewed.outcome, renewed.status) == ("m", "ok", None)
    assert renewed.cache
    assert (renewed.cache.status, renewed.cache.stored) == ("miss", True)
    (attempt,) = renewed.attempts
    assert (attempt.outcome, attempt.usage and attempt.usage.input) == ("ok", 30)
    assert line(renewed)["aside"] is True
    assert line(given)["aside"] is None


async def test_a_new_answer_that_fails_is_told_as_what_it_is(
    upstream: Upstream, clock: Clock
) -> None:
    upstream.script(says("old"), down())
    gate, records = watched(STALE, upstream)
    async with gate.lifespan():
        client = Client(gate)
        await (await client.chat(model="m")).read()
        clock.advance(90)
        await (await client.chat(model="m")).read()
        await settled()

    (renewed,) = [record for record in records if record.aside]
    assert (renewed.outcome, renewed.code) == ("failed", "connect_failed")
    assert renewed.attempts[0].outcome == "failed"


async def test_what_outlives_the_time_of_who_asked_first_is_told_when_it_ends(
    upstream: Upstream, clock: Clock
) -> None:
    tap = Tap("one ", "two")
    upstream.script(tap)
    gate, records = watched(SHORT, upstream)
    async with gate.lifespan():
        client = Client(gate)
        tap.go()
        first = await client.chat(model="m", stream=True)
        clock.advance(5)
        second = await client.chat(model="m", stream=True)
        clock.advance(6)
        assert b"total_timeout" in await first.read()
        await settled()
        (cut,) = records
        assert cut.attempts[0].outcome is None
        tap.go(2)
        await second.read()
        await settled()

    (late,) = [record for record in records if record.aside]
    assert late.attempts == cut.attempts
    assert late.attempts[0].usage
    assert (late.id, late.outcome) == (cut.id, "ok")


async def test_what_outlives_it_and_is_left_by_all_is_told_too(
    upstream: Upstream, clock: Clock
) -> None:
    tap = Tap("one ", "two")
    upstream.script(tap)
    gate, records = watched(SHORT, upstream)
    async with gate.lifespan():
        client = Client(gate)
        tap.go()
        first = await client.chat(model="m", stream=True)
        clock.advance(5)
        second = await client.chat(model="m", stream=True)
        clock.advance(6)
        await first.read()
        await second.leave()
        await settled()

    (late,) = [record for record in records if record.aside]
    assert late.outcome == "client_closed"
    assert late.attempts[0].outcome == "cancelled"
    assert upstream.open == 0


async def test_what_has_lost_a_race_and_goes_on_for_another_is_told_when_it_ends(
    upstream: Upstream,
) -> None:
    quick, slow = Tap("quick"), Tap("slow")

    async def by_name(upstream: Upstream, call: Call) -> Reply:
        return await (slow if upstream.asked[-1] == "b" else quick)(upstream, call)

    upstream.script(by_name)
    records: list[Record] = []
    observers = Observers((records.append,))
    cache, given = Cache(), asked(targets=["a", "b"]).telling(observers)
    racing = asyncio.create_task(answer_of_race(cache, upstream, given))
    await settled()
    other = asyncio.create_task(answer(cache, upstream, asked(targets=["b"])))
    await settled()
    quick.go()

    assert b"quick" in await racing
    given.record.close("ok")
    observers.tell(given.record)
    slow.go()
    assert b"slow" in await other
    await settled()

    own, late = records
    assert [attempt.outcome for attempt in late.attempts] == ["ok"]
    assert late.attempts == own.attempts[1:]


async def answer_of_race(cache: Cache, upstream: Upstream, given: Call) -> bytes:
    """What the first of several targets answers."""
    return await raw(await ask(Race(), cache, upstream=upstream, call=given))


async def test_nothing_is_counted_twice(upstream: Upstream, clock: Clock) -> None:
    upstream.script(says("old"), says("new", usage=(30, 20)))
    observed = f"    server: {{observers: [metrics: {{open: true}}]}}{STALE}"
    gate = gateway(observed, upstream=upstream)
    async with gate.lifespan():
        client = Client(gate)
        await (await client.chat(model="m")).read()
        clock.advance(90)
        await (await client.chat(model="m")).read()
        await settled()
        told = (await (await client.get("/metrics")).read()).decode()

    def counted(name: str, *labels: str) -> float:
        rows = [row for row in told.splitlines() if row.startswith(f"{name}{{")]
        return sum(float(row.rsplit(" ", 1)[1]) for row in rows if all(map(row.count, labels)))

    assert counted("headrace_requests_total") == 2
    assert counted("headrace_cache_total", 'status="stale"') == 1
    assert counted("headrace_cache_total", 'status="miss"') == 1
    assert counted("headrace_attempts_total", 'outcome="ok"') == 2
    assert counted("headrace_tokens_total", 'kind="input"') == 33
