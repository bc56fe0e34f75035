"""The store in memory: what every store keeps, and what bounds this one."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc

import pytest

from headrace.given import giving
from headrace.options import Size
from headrace.store import Store
from headrace.store.memory import Memory
from headrace.testing.clock import Clock
from headrace.testing.contracts.steps import free, holder, upto
from headrace.testing.contracts.store import StoreContract

pytestmark = pytest.mark.anyio


class TestMemory(StoreContract):
    async def make(self) -> Store:
        return Memory()


async def test_the_least_recently_used_value_goes_first() -> None:
    store = Memory(entries=3)
    for key in ("a", "b", "c"):
        await store.set(key, b"value", ttl=60)

    await store.get("a")
    await store.set("b", b"again", ttl=60)
    await store.set("d", b"value", ttl=60)

    assert await kept(store, "abcd") == "abd"


async def test_the_least_recently_used_values_make_room_for_a_large_one() -> None:
    store = Memory(size=Size(10_000))
    for key in ("a", "b", "c"):
        await store.set(key, bytes(2_500), ttl=60)

    assert await store.set("d", bytes(5_000), ttl=60)

    assert await kept(store, "abcd") == "cd"


async def test_keys_take_room_like_values() -> None:
    store = Memory(size=Size(10_000))
    await store.set("a", b"", ttl=60)

    assert await store.set("k" * 9_500, b"", ttl=60)

    assert await kept(store, "a") == ""


async def test_a_value_larger_than_all_pushes_nothing_out() -> None:
    store = Memory(size=Size(10_000))
    await store.set("a", b"value", ttl=60)

    assert not await store.set("b", bytes(10_001), ttl=60)

    assert await kept(store, "ab") == "a"


async def test_room_is_free_again_when_a_value_is_deleted_replaced_or_over(clock: Clock) -> None:
    store = Memory(size=Size(10_000))
    await store.set("stays", bytes(4_000), ttl=600)

    for _ in range(100):
        await store.set("deleted", bytes(4_000), ttl=60)
        await store.delete("deleted")
        await store.set("replaced", bytes(4_000), ttl=60)
        await store.set("replaced", bytes(10), ttl=60)
        await store.delete("replaced")
        await store.set("over", bytes(4_000), ttl=1)
        clock.advance(2)
        await store.get("over")

    assert await store.get("stays") == bytes(4_000)


async def test_values_do_not_push_out_what_limits_are_counted_with() -> None:
    store = Memory(entries=10, size=Size(10_000))
    await store.apply(upto(5))

    for number in range(100):
        await store.set(f"key{number}", bytes(1_000), ttl=60)

    assert await store.apply(upto(5)) == [(1, 2)]


async def test_numbers_are_bounded_and_the_least_recently_used_go_first() -> None:
    store = Memory(entries=3)
    for key in "abc":
        await store.apply(upto(5, key))

    await store.apply(upto(5, "a"))
    await store.apply(upto(5, "d"))

    assert await store.apply(upto(5, "a")) == [(1, 3)]
    assert await store.apply(upto(5, "b")) == [(1, 1)]


async def test_a_store_that_is_far_too_small_still_counts() -> None:
    store = Memory(entries=0, size=Size(0))

    assert [await store.apply(upto(1)) for _ in range(2)] == [[(1, 1)], [(0, 1)]]


async def test_memory_is_flat_however_much_is_set() -> None:
    store = Memory(entries=1_000, size=Size(1_000_000))

    async def work(begin: int, times: int) -> None:
        for number in range(begin, begin + times):
            await store.set(f"value{number}", bytes(number % 1_000), ttl=600)
            if number % 10 == 0:
                await store.apply(upto(5, f"number{number}"))
                async with store.lease(f"lease{number}", 1, ttl=600):
                    pass

    tracemalloc.start()
    try:
        await work(0, 10_000)
        gc.collect()
        settled, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        await work(10_000, 100_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert settled < 2_000_000
    assert peak < settled + 200_000


async def test_what_is_counted_is_at_least_what_python_needs() -> None:
    size = Size(4_000_000)
    store = Memory(size=size)

    tracemalloc.start()
    try:
        for number in range(20_000):
            await store.set(f"{number}", b"%d" % number, ttl=60)
        needed, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert 0.6 * size < needed < 1.1 * size


async def test_steps_run_as_one_without_a_turn_for_others() -> None:
    store = Memory()
    turns: list[int] = []
    asyncio.get_running_loop().call_soon(turns.append, 1)

    await store.apply(*(upto(100) for _ in range(100)))

    assert not turns


async def test_a_slot_is_free_when_the_cancelled_holder_is_done() -> None:
    store = Memory()
    holding = await holder(store, 1)
    assert await free(store, 1) == 0

    holding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await holding

    assert await free(store, 1) == 1


async def test_leases_are_never_pushed_out() -> None:
    store = Memory(entries=1, size=Size(1_000))
    holding = [await holder(store, 1, f"key{number}") for number in range(100)]

    assert await free(store, 1, "key0") == 0
    for task in holding:
        task.cancel()
    await asyncio.gather(*holding, return_exceptions=True)
    assert await free(store, 1, "key0") == 1


async def test_a_stepped_wall_clock_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Memory()
    await store.set("key", b"value", ttl=60)

    monkeypatch.setattr("time.time", lambda: 1e12)

    assert await store.get("key") == b"value"


def test_a_plugin_made_for_a_gateway_shares_its_store() -> None:
    shared = Memory()
    with giving({Store: shared}):
        assert Store.of_server() is shared

    assert Store.of_server() is not Store.of_server()


async def kept(store: Memory, keys: str) -> str:
    """Those of the one-letter keys that have a value."""
    return "".join([key for key in keys if await store.get(key) is not None])
