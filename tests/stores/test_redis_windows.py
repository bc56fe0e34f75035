"""The library `limits` keeps its windows over the store's own connections."""

from __future__ import annotations

import time

import pytest
from limits import RateLimitItemPerMinute, RateLimitItemPerSecond
from limits.aio.strategies import (
    FixedWindowRateLimiter,
    MovingWindowRateLimiter,
    RateLimiter,
    SlidingWindowCounterRateLimiter,
)

from headrace import Unavailable
from headrace.testing import Clock

from .asking import back, opened
from .servers import Server

STRATEGIES = (FixedWindowRateLimiter, MovingWindowRateLimiter, SlidingWindowCounterRateLimiter)
every_strategy = pytest.mark.parametrize("kind", STRATEGIES, ids=lambda kind: kind.__name__)


@every_strategy
async def test_a_window_takes_as_many_as_it_says(server: Server, kind: type[RateLimiter]) -> None:
    async with opened(server.url) as store:
        limiter, limit = kind(store.windows()), RateLimitItemPerMinute(5)

        taken = [await limiter.hit(limit, kind.__name__, "ann") for _ in range(8)]

        assert taken == [True] * 5 + [False] * 3
        reset, left = await limiter.get_window_stats(limit, kind.__name__, "ann")
        assert left == 0
        assert -1 < reset - time.time() < 61
        assert await limiter.test(limit, kind.__name__, "bob")


@every_strategy
async def test_a_window_is_open_again_when_it_is_over(
    valkey: Server, kind: type[RateLimiter]
) -> None:
    async with opened(valkey.url) as store:
        limiter, limit = kind(store.windows()), RateLimitItemPerSecond(1)
        assert await limiter.hit(limit, kind.__name__)

        time.sleep(2.1)

        assert await limiter.hit(limit, kind.__name__)


@every_strategy
async def test_two_stores_share_their_windows(valkey: Server, kind: type[RateLimiter]) -> None:
    limit = RateLimitItemPerMinute(2)
    async with opened(valkey.url) as one, opened(valkey.url, prefix=one.prefix) as other:
        for store in (one, other):
            assert await kind(store.windows()).hit(limit, kind.__name__)

        assert not await kind(one.windows()).hit(limit, kind.__name__)


@every_strategy
async def test_a_window_outlives_what_the_server_forgets(
    own: Server, kind: type[RateLimiter]
) -> None:
    async with opened(own.url) as store:
        limiter, limit = kind(store.windows()), RateLimitItemPerMinute(2)
        assert await limiter.hit(limit)
        own.tell("SCRIPT", "FLUSH")

        assert [await limiter.hit(limit) for _ in range(2)] == [True, False]


@every_strategy
async def test_windows_of_a_store_that_does_not_answer_are_unavailable_too(
    clock: Clock, own: Server, kind: type[RateLimiter]
) -> None:
    async with opened(own.url, timeout=0.2) as store:
        limiter, limit = kind(store.windows()), RateLimitItemPerMinute(5)
        await limiter.hit(limit)
        own.pause()

        for _ in range(5):
            with pytest.raises(Unavailable, match="nothing came within 200ms"):
                await limiter.hit(limit)
        assert store.fault == "nothing came within 200ms"
        with pytest.raises(Unavailable):
            await limiter.hit(limit)

        own.resume()
        await back(store, clock)
        await limiter.hit(limit)


async def test_windows_are_kept_below_the_prefix_with_a_time_to_live(own: Server) -> None:
    async with opened(own.url, prefix="mine") as store:
        for kind in STRATEGIES:
            await kind(store.windows()).hit(RateLimitItemPerMinute(5), kind.__name__)

        keys = own.tell("KEYS", "*")
        assert len(keys) == 3
        for key in keys:
            assert key.startswith(b"mine:w:")
            assert own.tell("PTTL", key) > 0


async def test_windows_outlive_the_connections_they_were_made_over(valkey: Server) -> None:
    async with opened(valkey.url) as store:
        windows = store.windows()
        await windows.incr("key", 60)
        await store.aclose()

        assert await windows.incr("key", 60) == 2
        assert store.windows() is windows


async def test_windows_follow_what_sentinels_say(watched: Server) -> None:
    async with opened(f"redis+sentinel://127.0.0.1:{watched.port}/main") as store:
        assert await store.windows().incr("key", 60) == 1


async def test_a_cluster_keeps_no_windows(nodes: list[Server]) -> None:
    async with opened(f"redis+cluster://127.0.0.1:{nodes[0].port}") as store:
        with pytest.raises(NotImplementedError, match="use the token bucket"):
            store.windows()
