"""`cache`: replicas that share a store ask once, and a store that fails costs next to nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from statistics import median
from typing import Any

import pytest

from headrace import Duration, Memory, Secret, Size, Store
from headrace.store.redis import Redis
from headrace.testing import Clock, Upstream, ask, down, says, settled, silent, text
from headrace_plugins.cache import Cache

from ..stores.servers import VALKEY, Server, running
from .cache.asking import answer, asked, status

STREAM: Any = {"stream": True}


class Shared(Memory):
    """What several replicas see."""

    shared = True


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


@pytest.fixture(scope="module")
def valkey() -> Iterator[Server]:
    with running(VALKEY) as server:
        yield server


@asynccontextmanager
async def replicas(store: Store, **options: Any) -> AsyncIterator[list[Cache]]:
    """Two of them."""
    async with Cache(store=store, **options) as one, Cache(store=store, **options) as other:
        yield [one, other]


async def test_two_replicas_that_are_asked_at_once_ask_the_upstream_once(
    upstream: Upstream, clock: Clock
) -> None:
    clock.jumps = True
    calls = [asked(stream=n % 2 == 0) for n in range(20)]
    async with replicas(Shared()) as caches:
        asks = [answer(caches[n // 10], upstream, given) for n, given in enumerate(calls)]
        answers = await asyncio.gather(*asks)

    assert len(upstream.asked) == 1
    assert all(b"hello" in each for each in answers)
    assert [status(given) for given in calls].count("miss") == 1
    assert upstream.open == 0


async def test_when_the_other_replica_fails_this_one_asks(upstream: Upstream, clock: Clock) -> None:
    clock.jumps = True
    gate = asyncio.Event()

    async def fails(upstream: Upstream, call: Any) -> Any:
        await gate.wait()
        return await down()(upstream, call)

    upstream.script(fails, says("hello"))
    async with replicas(Shared()) as (one, other):
        first = asyncio.create_task(answer(one, upstream, asked()))
        await settled()
        second = asyncio.create_task(answer(other, upstream, asked()))
        await settled()
        gate.set()

        assert b"hello" in await second
        assert isinstance((await asyncio.gather(first, return_exceptions=True))[0], Exception)


async def test_nobody_waits_for_another_replica_longer_than_that(
    upstream: Upstream, clock: Clock
) -> None:
    upstream.script(silent(), says("hello"))
    async with replicas(Shared(), wait=Duration(5)) as (one, other):
        stuck = asyncio.create_task(answer(one, upstream, asked()))
        await settled()
        clock.jumps = True
        began = clock.now

        assert b"hello" in await answer(other, upstream, asked())
        assert 4.9 < clock.now - began < 5.5
        clock.jumps = False
        stuck.cancel()
        await asyncio.gather(stuck, return_exceptions=True)


async def test_what_one_replica_keeps_another_gives(upstream: Upstream, valkey: Server) -> None:
    answers = []
    for stream in (True, False):
        async with Redis(url=Secret(valkey.url)) as store, Cache(store=store) as cache:
            given = asked(stream=stream)
            answers.append(await answer(cache, upstream, given))

    assert len(upstream.asked) == 1
    assert b"hello" in answers[1]
    assert status(given) == "hit"


async def test_max_age_holds_where_another_replica_keeps_the_answer(
    upstream: Upstream, clock: Clock
) -> None:
    async with replicas(Shared()) as (one, other):
        await answer(one, upstream, asked())
        clock.advance(30)
        given = asked(headers={"cache-control": "max-age=20"})
        await answer(other, upstream, given)

    assert status(given) == "miss"
    assert len(upstream.asked) == 2


async def test_an_answer_that_came_between_two_looks_is_not_asked_for_again(
    upstream: Upstream,
) -> None:
    class Late(Shared):
        looks = 0

        async def get(self, key: str) -> bytes | None:
            self.looks += 1
            found = await super().get(key)
            if self.looks == 1:  # the other replica is asked, and done, before this one is told
                await answer(one, upstream, asked())
            return found

    store = Late()
    async with replicas(store) as (one, other):
        given = asked()
        assert b"hello" in await answer(other, upstream, given)

    assert len(upstream.asked) == 1
    assert status(given) == "shared"


async def test_redis_lets_two_replicas_ask_once(upstream: Upstream, valkey: Server) -> None:
    async with (
        Redis(url=Secret(valkey.url), timeout=Duration(5)) as store,
        replicas(store) as caches,
    ):
        asks = [answer(caches[n % 2], upstream, asked(n=2)) for n in range(20)]
        answers = await asyncio.gather(*asks)

    assert len(set(answers)) == 1
    assert len(upstream.asked) == 1


@pytest.mark.parametrize("fault", ["down", "silent", "full"])
async def test_a_redis_that_fails_costs_a_miss_and_hardly_any_time(
    upstream: Upstream, fault: str, record_property: Callable[[str, object], None]
) -> None:
    upstream.script(says("hello " * 100))
    took: list[float] = []

    async def missed() -> None:
        given = asked(seed=len(took))
        began = time.perf_counter()
        reply = await ask(cache, upstream=upstream, call=given)
        assert "hello" in await text(reply)
        took.append(time.perf_counter() - began)
        assert status(given) == "miss"
        await settled()

    with running(VALKEY) as server:
        async with Redis(url=Secret(server.url)) as store, Cache(store=store) as cache:
            for _ in range(25):
                await missed()
            if fault == "down":
                server.kill()
            elif fault == "silent":
                server.pause()
            else:
                server.tell("CONFIG", "SET", "maxmemory", "1")
            failed = time.perf_counter()
            while time.perf_counter() < failed + 1 or len(took) < 75:
                await missed()

    assert len(upstream.asked) == len(took)
    well, ill = median(took[:25]), median(took[-25:])
    record_property(
        f"a call while Redis is well, and {fault}", f"{well * 1e3:.1f}, {ill * 1e3:.1f} ms"
    )
    assert ill - well < 0.01, "every call waits for the store"


async def test_large_answers_take_little_room_in_redis(upstream: Upstream, valkey: Server) -> None:
    upstream.script(says("la " * 100_000))
    async with Redis(url=Secret(valkey.url), prefix="room") as store:
        async with Cache(store=store, largest=Size(1_000_000), compress=Size(1000)) as cache:
            first = await answer(cache, upstream, asked(seed=3))
        async with Cache(store=store) as cache:
            assert await answer(cache, upstream, asked(seed=3)) == first

    (key,) = valkey.tell("KEYS", "room:v:*")
    assert valkey.tell("STRLEN", key) < 10_000
