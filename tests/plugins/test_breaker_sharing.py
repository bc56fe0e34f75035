"""`breaker` in several workers: what one finds, the others believe, and only one of them probes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest

from headrace import Duration, Memory, Secret, Store, Unavailable
from headrace.store.redis import Redis
from headrace.testing import Clock, Upstream, call, refuses, says, settled, silent
from headrace_plugins.breaker import Breaker

from ..stores.servers import Server, running
from .test_breaker import NOT_ASKED, around, ended, outcome, said_to


class Worker:
    """One of several; each has a breaker of its own."""

    def __init__(self, store: Store, cooldown: float = 5) -> None:
        self.upstream = Upstream()
        self.upstream.script(refuses(500))
        self.breaker = Breaker(store=store, cooldown=Duration(cooldown))
        self.ask = around(self.breaker, self.upstream)

    async def breaks(self) -> None:
        """Find the upstream failing, and say so."""
        await ended(self.ask, 5)
        await settled()
        self.upstream.asked.clear()

    async def learns(self) -> None:
        """Ask once, and hear meanwhile what others say."""
        await outcome(self.ask)
        await settled()
        self.upstream.asked.clear()


@pytest.fixture
def store() -> Memory:
    return Memory()


async def test_what_one_finds_failing_the_others_leave_alone(store: Memory) -> None:
    first, second = Worker(store), Worker(store)
    await first.breaks()
    await second.learns()

    assert await ended(second.ask, 9) == [NOT_ASKED] * 9

    assert second.upstream.asked == []
    [rest] = second.breaker.rests.all.values()
    assert rest.why == "5 failures in a row, the last: HTTP 500"


async def test_it_takes_about_a_second(store: Memory, clock: Clock) -> None:
    first, second = Worker(store), Worker(store)
    second.upstream.script(says("hello"))
    assert await outcome(second.ask) == "hello"
    await first.breaks()

    assert await outcome(second.ask) == "hello"
    clock.advance(1.1)
    await second.learns()

    assert await outcome(second.ask) == NOT_ASKED


async def test_no_call_waits_for_the_store_and_it_is_asked_once_a_second(clock: Clock) -> None:
    looks = 0

    class Slow(Memory):
        async def get(self, key: str) -> bytes | None:
            nonlocal looks
            looks += 1
            await asyncio.Event().wait()
            raise AssertionError("unreachable")

    worker = Worker(Slow())
    worker.upstream.script(says("hello"))
    async with worker.breaker:
        for _ in range(3):
            assert await ended(worker.ask, 50) == ["hello"] * 50
            await settled()
            clock.advance(1.1)

    assert looks == 3


async def test_one_of_all_probes(store: Memory, clock: Clock) -> None:
    first, second = Worker(store), Worker(store)
    await first.breaks()
    await second.learns()
    first.upstream.script(silent())
    second.upstream.script(says("hello"))
    clock.advance(5.1)

    probe = asyncio.ensure_future(first.ask(call()))
    await settled()
    assert await ended(second.ask, 9) == [NOT_ASKED] * 9
    probe.cancel()
    await asyncio.wait([probe])
    clock.advance(0.6)

    assert await ended(second.ask, 9) == ["hello"] * 9


async def test_while_others_leave_it_alone_nobody_probes(store: Memory, clock: Clock) -> None:
    first, second = Worker(store), Worker(store, cooldown=20)
    await first.breaks()
    await second.breaks()

    clock.advance(5.1)
    assert await outcome(first.ask) == NOT_ASKED
    clock.advance(15)
    first.upstream.script(says("hello"))
    assert await outcome(first.ask) == "hello"


async def test_what_one_finds_well_the_others_ask_again(store: Memory, clock: Clock) -> None:
    first, second = Worker(store, cooldown=200), Worker(store)
    await first.breaks()
    await second.breaks()
    second.upstream.script(says("hello"))
    first.upstream.script(says("hello"))
    clock.advance(5.1)
    assert await outcome(second.ask) == "hello"
    await settled()

    await first.learns()

    assert await outcome(first.ask) == "hello"


async def test_what_rests_for_another_reason_goes_on_resting(store: Memory, clock: Clock) -> None:
    first, second = Worker(store, cooldown=200), Worker(store)
    await first.breaks()
    await second.breaks()
    first.breaker.rests.rest(("a", None), 9999, why="somebody said so", closed=True)
    clock.advance(5.1)

    await first.learns()

    rest = first.breaker.rests.at(("a", None))
    assert rest and rest.why == "somebody said so"


async def test_what_somebody_ends_by_hand_and_is_well_the_others_ask_again(
    store: Memory, clock: Clock
) -> None:
    first, second = Worker(store, cooldown=200), Worker(store)
    await first.breaks()
    await second.learns()
    first.upstream.script(says("hello"))
    second.upstream.script(says("hello"))

    clock.advance(1.1)
    first.breaker.rests.resume(("a", None))
    assert await outcome(first.ask) == "hello"
    await settled()
    assert not first.breaker.rests.all  # by its own word, least of all
    clock.advance(0.6)

    assert await ended(first.ask, 3) == ["hello"] * 3
    assert await outcome(second.ask) == "hello"


async def test_a_probe_that_fails_makes_all_wait_longer(store: Memory, clock: Clock) -> None:
    first, second = Worker(store), Worker(store)
    await first.breaks()
    await second.learns()
    clock.advance(5.1)
    assert await outcome(second.ask) == "upstream_500"
    await settled()

    clock.advance(7)
    assert await outcome(first.ask) == NOT_ASKED
    assert second.breaker.rests.at(("a", None))


async def test_the_probe_of_a_worker_that_died_is_not_waited_for(
    store: Memory, clock: Clock
) -> None:
    first, second = Worker(store), Worker(store)
    await first.breaks()
    await second.learns()
    first.upstream.script(silent())
    second.upstream.script(says("hello"))
    clock.advance(5.1)
    dead = asyncio.ensure_future(first.ask(call()))
    await settled()
    assert await outcome(second.ask) == NOT_ASKED

    clock.advance(61)

    assert await outcome(second.ask) == "hello"
    dead.cancel()
    await asyncio.wait([dead])


async def test_who_starts_anew_soon_knows_what_was_found(store: Memory) -> None:
    await Worker(store).breaks()
    anew = Worker(store)
    await anew.learns()

    assert await outcome(anew.ask) == NOT_ASKED


async def test_what_ended_before_the_others_were_told_is_not_told(
    store: Memory, clock: Clock
) -> None:
    worker = Worker(store)
    await ended(worker.ask, 5)
    clock.advance(5.1)
    worker.upstream.script(says("hello"))
    assert await outcome(worker.ask) == "hello"
    await settled()

    assert await ended(worker.ask, 9) == ["hello"] * 9
    assert not worker.breaker.rests.all


async def test_what_failed_for_one_caller_alone_is_left_alone_for_that_one(
    store: Memory, clock: Clock
) -> None:
    first, second = Worker(store), Worker(store)
    second.upstream.script(says("hello"))
    await said_to(first.ask, *["ann"] * 5)
    await settled()
    await second.learns()

    assert await said_to(second.ask, "ann", "bob", "ann") == [NOT_ASKED, "hello", NOT_ASKED]


class Gone(Memory):
    """A store that does not answer."""

    async def get(self, key: str) -> bytes | None:
        raise Unavailable("the store does not answer")

    async def set(self, key: str, value: bytes, *, ttl: float) -> bool:
        raise Unavailable("the store does not answer")

    async def delete(self, key: str) -> bool:
        raise Unavailable("the store does not answer")

    @asynccontextmanager
    async def lease(self, key: str, slots: int, *, ttl: float) -> AsyncIterator[None]:
        raise Unavailable("the store does not answer")
        yield


class Garbled(Memory):
    """A store in which somebody has written something else."""

    async def get(self, key: str) -> bytes | None:
        return b'{"cooldown"'


async def test_where_the_store_does_not_answer_each_decides_alone(clock: Clock) -> None:
    worker = Worker(Gone())
    await worker.breaks()
    assert await outcome(worker.ask) == NOT_ASKED

    clock.advance(5.1)
    assert await ended(worker.ask, 2) == ["upstream_500", NOT_ASKED]
    clock.advance(10.1)
    worker.upstream.script(says("hello"))

    assert await ended(worker.ask, 2) == ["hello", "hello"]


async def test_then_too_each_sends_one_probe(clock: Clock) -> None:
    worker = Worker(Gone())
    await worker.breaks()
    clock.advance(5.1)
    worker.upstream.script(silent())
    probe = asyncio.ensure_future(worker.ask(call()))
    await settled()

    assert await ended(worker.ask, 9) == [NOT_ASKED] * 9
    assert len(worker.upstream.asked) == 1
    probe.cancel()
    await asyncio.wait([probe])


async def test_what_makes_no_sense_is_not_believed() -> None:
    worker = Worker(Garbled())
    worker.upstream.script(says("hello"))
    await worker.learns()

    assert await ended(worker.ask, 3) == ["hello"] * 3


# With a real store


@pytest.fixture(scope="module")
def valkey() -> Iterator[Server]:
    with running() as server:
        yield server


@pytest.fixture
async def stores(valkey: Server) -> AsyncIterator[list[Redis]]:
    stores = [Redis(url=Secret(valkey.url)) for _ in range(3)]
    yield stores
    for store in stores:
        await store.aclose()


async def test_replicas_learn_of_it_and_one_of_them_probes(stores: list[Redis]) -> None:
    workers = [Worker(store, cooldown=1) for store in stores]
    for worker in workers[1:]:
        worker.upstream.script(says("hello"))
        assert await outcome(worker.ask) == "hello"
    await workers[0].breaks()

    calls: list[asyncio.Future[str]] = []

    async def until(true: Callable[[], object]) -> None:
        """Let all of them be used until something is true."""
        async with asyncio.timeout(10):
            while not true():
                calls.extend(asyncio.ensure_future(outcome(worker.ask)) for worker in workers)
                await asyncio.sleep(0.02)

    await until(lambda: all(worker.breaker.rests.all for worker in workers))
    for worker in workers:
        worker.upstream.asked.clear()
        worker.upstream.script(silent())
    await until(lambda: any(worker.upstream.asked for worker in workers))
    enough = len(calls) + 90
    await until(lambda: len(calls) > enough)

    assert sum(len(worker.upstream.asked) for worker in workers) == 1
    for asked in calls:
        asked.cancel()
    await asyncio.wait(calls)
