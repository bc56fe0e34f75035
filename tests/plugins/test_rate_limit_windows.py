"""`rate_limit` by windows of time, as the library `limits` counts them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter
from limits.errors import StorageError

from headrace import Caller, CallError, ConfigError, Memory, RateLimited, Store
from headrace.testing import Upstream, ask, call
from headrace_plugins.rate_limit import RateLimit
from headrace_plugins.rate_limit.policies import Strategy

from .rate_limit.gates import let_in, policy

WINDOWS: list[Strategy] = ["fixed_window", "moving_window", "sliding_window"]
every = pytest.mark.parametrize("strategy", WINDOWS)


class Wall:
    """The clock on the wall, which the library goes by."""

    def __init__(self) -> None:
        self.now = 1_800_000_003.7

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    wall = Wall()
    monkeypatch.setattr("time.time", wall)
    return wall


def limiting(
    strategy: str,
    requests: Any = "3/minute",
    *more: Any,
    store: Store | None = None,
    **options: Any,
) -> RateLimit:
    policies = [policy(by=[], requests=requests, strategy=strategy), *more]
    return RateLimit(policies=policies, store=store or Memory(), **options)


async def wait(plugin: RateLimit) -> float:
    """How long whoever is refused is told to wait."""
    with pytest.raises(RateLimited, match="the limit 'everybody'") as caught:
        await ask(plugin, upstream=Upstream(), call=call())
    return int(caught.value.headers["retry-after-ms"]) / 1000


@every
async def test_as_many_are_let_in_as_are_written(strategy: str) -> None:
    plugin = limiting(strategy)

    assert [await let_in(plugin, call()) for _ in range(5)] == [True, True, True, False, False]


@every
@pytest.mark.parametrize("pauses", [[0, 0, 0], [10, 10, 10], [50, 1, 1], [0, 59, 0], [7, 7, 43]])
async def test_whoever_comes_back_when_told_is_let_in(
    strategy: str, pauses: list[float], wall: Wall
) -> None:
    plugin = limiting(strategy)
    for _ in range(3):
        for pause in pauses:
            wall.now += pause
            await let_in(plugin, call())
        while await let_in(plugin, call()):
            pass

        wall.now += await wait(plugin)

        assert await let_in(plugin, call())


@every
async def test_several_windows_hold_together(strategy: str, wall: Wall) -> None:
    plugin = limiting(strategy, ["2/s", "3/hour"])

    assert [await let_in(plugin, call()) for _ in range(3)] == [True, True, False]
    wall.now += 3
    assert [await let_in(plugin, call()) for _ in range(2)] == [True, False]
    wall.now += 3
    assert not await let_in(plugin, call())


@every
async def test_what_a_window_refuses_takes_nothing_from_a_bucket(strategy: str) -> None:
    plugin = limiting(
        strategy, "2/hour", policy(name="bucket", by=[], requests="9/day", concurrent=5)
    )
    for _ in range(4):
        await let_in(plugin, call())

    left = await allowances(plugin)

    assert left == {
        ("everybody", "requests"): 0,
        ("bucket", "requests"): 7,
        ("bucket", "concurrent"): 5,
    }


@every
async def test_what_a_bucket_refuses_is_not_counted_in_a_window(strategy: str) -> None:
    plugin = limiting(strategy, "9/hour", policy(name="bucket", by=[], requests="2/day"))
    for _ in range(4):
        await let_in(plugin, call())

    assert await allowances(plugin) == {("everybody", "requests"): 7, ("bucket", "requests"): 0}


async def test_who_was_faster_leaves_nothing_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    async def always(*_: object, **__: object) -> bool:
        return True

    monkeypatch.setattr(FixedWindowRateLimiter, "test", always)
    plugin = limiting("fixed_window", "2/hour", policy(name="bucket", by=[], concurrent=5))

    assert [await let_in(plugin, call()) for _ in range(3)] == [True, True, False]
    await asyncio.sleep(0.01)
    assert (await allowances(plugin))["bucket", "concurrent"] == 5


@every
async def test_looking_counts_nothing(strategy: str) -> None:
    plugin = limiting(strategy)
    for _ in range(9):
        assert await allowances(plugin) == {("everybody", "requests"): 3}


async def test_strategies_do_not_meet_in_the_store() -> None:
    store = Memory()
    for strategy in WINDOWS:
        plugin = limiting(strategy, store=store)
        assert [await let_in(plugin, call()) for _ in range(4)] == [True, True, True, False]


@pytest.mark.parametrize("on_store_error", ["local", "open", "closed"])
@pytest.mark.parametrize("failure", [StorageError(OSError("gone")), ValueError("of its own")])
async def test_windows_that_fail_are_a_store_that_does_not_answer(
    on_store_error: Any, failure: Exception
) -> None:
    class Failing(Memory):
        def windows(self) -> MemoryStorage:
            storage = MemoryStorage()

            async def fail(*_: object, **__: object) -> int:
                raise failure

            storage.get = fail  # type: ignore[method-assign]
            return storage

    plugin = limiting(
        "fixed_window", "4/hour", store=Failing(), on_store_error=on_store_error, replicas=2
    )
    upstream = Upstream()

    found = []
    for _ in range(4):
        given = call()
        try:
            await (await ask(plugin, upstream=upstream, call=given)).aclose()
            found.append(str(given.record.limits[0].outcome))
        except CallError as error:
            found.append(str(error.code))

    assert (
        found
        == {
            "local": ["admitted", "admitted", "rate_limit_exceeded", "rate_limit_exceeded"],
            "open": ["unchecked"] * 4,
            "closed": ["limiter_unavailable"] * 4,
        }[on_store_error]
    )


async def test_a_store_without_windows_is_a_problem_when_it_is_opened() -> None:
    class Without(Memory):
        def windows(self) -> Any:
            return Store.windows(self)

    with pytest.raises(ConfigError, match="moving_window: this store keeps no windows; use the"):
        async with limiting("moving_window", store=Without()):
            pass
    async with RateLimit(store=Without(), policies=[policy(by=[], requests="1/s")]):
        pass


async def allowances(plugin: RateLimit) -> dict[tuple[str, str], float]:
    """What is left of each limit."""
    visit = plugin._visit(call("me").replace(caller=Caller("who looks")))
    await visit.take(plugin._counter, visit.limits)
    return {(each.policy, each.counts): each.remaining for each in visit.allowances}
