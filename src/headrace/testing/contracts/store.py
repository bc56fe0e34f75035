"""What every store must keep.

    class TestMemory(StoreContract):
        async def make(self) -> Store:
            return Memory()

Time is the `clock` fixture. A store with a clock of its own overrides it with one whose
`advance` waits, and makes a `second` of this suite as short as it can tell apart.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import ClassVar, Protocol

import pytest

from headrace.store import Full, Store
from headrace.testing.contracts.steps import (
    failing,
    forget,
    free,
    hold,
    holder,
    refusing,
    swap,
    upto,
    watch,
)


class Clock(Protocol):
    """What turns the store's time."""

    def advance(self, seconds: float, /) -> None:
        """Let `seconds` pass."""


@pytest.mark.anyio
class StoreContract:
    """Inherit from this and say how the store is made."""

    second: ClassVar[float] = 1.0
    """How long a second of this suite is."""
    largest: ClassVar[int] = 1_000_000
    """The largest value that the store takes, in bytes."""

    async def make(self) -> Store:
        """An empty store."""
        raise NotImplementedError("say how the store is made: async def make(self) -> Store")

    @pytest.fixture
    async def store(self) -> AsyncIterator[Store]:
        """The store, closed in the end."""
        store = await self.make()
        yield store
        await store.aclose()

    # Values

    async def test_a_value_is_there_until_its_time_is_over(
        self, store: Store, clock: Clock
    ) -> None:
        assert await store.set("key", b"value", ttl=10 * self.second)

        clock.advance(8 * self.second)
        assert await store.get("key") == b"value"
        clock.advance(4 * self.second)
        assert await store.get("key") is None

    async def test_reading_a_value_does_not_make_it_last(self, store: Store, clock: Clock) -> None:
        await store.set("key", b"value", ttl=10 * self.second)

        for _ in range(3):
            clock.advance(4 * self.second)
            found = await store.get("key")

        assert found is None

    async def test_what_was_never_set_is_not_there(self, store: Store) -> None:
        await store.set("key", b"value", ttl=60)

        assert await store.get("kez") is None

    async def test_the_last_value_counts_and_so_does_its_time(
        self, store: Store, clock: Clock
    ) -> None:
        await store.set("longer", b"first", ttl=5 * self.second)
        await store.set("longer", b"last", ttl=20 * self.second)
        await store.set("shorter", b"first", ttl=20 * self.second)
        await store.set("shorter", b"last", ttl=5 * self.second)

        clock.advance(10 * self.second)

        assert await store.get("longer") == b"last"
        assert await store.get("shorter") is None

    @pytest.mark.parametrize("ttl", [0, -1])
    async def test_a_value_with_no_time_left_takes_the_place_of_the_last_one_and_is_gone(
        self, store: Store, ttl: float
    ) -> None:
        await store.set("key", b"value", ttl=60)

        assert await store.set("key", b"late", ttl=ttl)

        assert await store.get("key") is None

    @pytest.mark.parametrize("value", [b"", b"0", b"\x00\xff\r\n", "Grüße 👋".encode()])
    async def test_any_bytes_come_back_as_they_were(self, store: Store, value: bytes) -> None:
        await store.set("key", value, ttl=60)

        assert await store.get("key") == value

    @pytest.mark.parametrize("key", ["", "a b", "{a}:b", "a\r\nb", "*", "Grüße 👋", "k" * 1000])
    async def test_any_text_is_a_key(self, store: Store, key: str) -> None:
        await store.set(key, b"value", ttl=60)

        assert await store.get(key) == b"value"
        assert await store.apply(upto(1, key)) == [(1, 1)]
        async with store.lease(key, 1, ttl=60):
            pass
        assert await store.delete(key)

    async def test_a_value_too_large_is_refused_and_changes_nothing(self, store: Store) -> None:
        assert await store.set("key", bytes(self.largest), ttl=60)
        assert not await store.set("key", bytes(self.largest + 1), ttl=60)

        assert await store.get("key") == bytes(self.largest)

    async def test_deleting_tells_whether_there_was_a_value(
        self, store: Store, clock: Clock
    ) -> None:
        await store.set("key", b"", ttl=60)
        await store.set("old", b"", ttl=1 * self.second)
        clock.advance(2 * self.second)

        assert await store.delete("key")
        assert not await store.delete("key")
        assert not await store.delete("old")
        assert await store.get("key") is None

    async def test_values_are_cleared_by_the_beginning_of_their_keys(self, store: Store) -> None:
        for key in ("a:1", "a:2", "ab", "b:1", "a*", "[a]:1"):
            await store.set(key, b"value", ttl=60)
        await store.apply(upto(5, "a:1"))

        assert await store.clear("a:") == 2
        assert await store.clear("a*") == 1

        kept = [key for key in ("a:1", "a:2", "ab", "b:1", "a*", "[a]:1") if await store.get(key)]
        assert kept == ["ab", "b:1", "[a]:1"]
        assert await store.apply(upto(5, "a:1")) == [(1, 2)]
        assert await store.clear("") == 3

    async def test_values_numbers_and_leases_of_one_key_do_not_meet(self, store: Store) -> None:
        async with store.lease("key", 1, ttl=60):
            await store.apply(upto(5))
            await store.set("key", b"value", ttl=60)

            assert await store.apply(upto(5)) == [(1, 2)]
            assert await store.get("key") == b"value"
            assert await store.delete("key")
            assert await store.apply(upto(5)) == [(1, 3)]
            with pytest.raises(Full):
                await hold(store, 1)

    # Steps

    async def test_no_steps_are_no_answers(self, store: Store) -> None:
        assert await store.apply() == []

    async def test_a_step_sees_what_the_last_one_wrote(self, store: Store) -> None:
        answers = [await store.apply(upto(2)) for _ in range(4)]

        assert answers == [[(1, 1)], [(1, 2)], [(0, 2)], [(0, 2)]]

    async def test_steps_of_one_call_see_each_other_and_answer_in_order(self, store: Store) -> None:
        answers = await store.apply(upto(2), upto(9, "{key}2"), upto(2), upto(2), forget(), upto(2))

        assert answers == [(1, 1), (1, 1), (1, 2), (0, 2), (), (1, 1)]

    async def test_a_ceiling_holds_however_many_ask_at_once(self, store: Store) -> None:
        asked = await asyncio.gather(
            *(store.apply(upto(10), upto(30, "all{key}")) for _ in range(50))
        )

        assert sum(mine for (mine, _), _ in asked) == 10
        assert sum(everybodys for _, (everybodys, _) in asked) == 30

    async def test_a_step_that_gives_back_nothing_removes_what_was_there(
        self, store: Store
    ) -> None:
        await store.apply(upto(5), upto(5, "{key}2"))

        assert await store.apply(forget()) == [()]

        assert await store.apply(upto(5), upto(5, "{key}2")) == [(1, 1), (1, 2)]

    async def test_when_one_step_fails_none_has_happened(self, store: Store) -> None:
        await store.apply(upto(5))

        with pytest.raises(Exception, match="this step fails"):
            await store.apply(upto(5), failing())

        assert await store.apply(upto(5)) == [(1, 2)]

    async def test_when_one_step_refuses_all_answer_and_none_has_happened(
        self, store: Store
    ) -> None:
        answers = await store.apply(upto(5), refusing("{key}2"), upto(5, "{key}3"), upto(5))

        assert answers == [(1, 1), (7,), (1, 1), (1, 2)]
        assert await store.apply(upto(5), upto(5, "{key}3")) == [(1, 1), (1, 1)]

    async def test_steps_that_a_cluster_could_not_apply_together_are_refused(
        self, store: Store
    ) -> None:
        with pytest.raises(ValueError, match=r"share a \{tag\}"):
            await store.apply(upto(5, "a"), upto(5, "b"))

    async def test_numbers_last_from_when_they_were_last_written(
        self, store: Store, clock: Clock
    ) -> None:
        step = upto(9, ttl=10 * self.second)

        counted = []
        for seconds in (0, 6, 6, 12):
            clock.advance(seconds * self.second)
            [(_, count)] = await store.apply(step)
            counted.append(count)

        assert counted == [1, 2, 3, 1]

    async def test_steps_see_time_pass_on_one_clock(self, store: Store, clock: Clock) -> None:
        [(before,)] = await store.apply(watch("a"))
        clock.advance(10 * self.second)
        [(one,), (other,)] = await store.apply(watch("{a}1"), watch("{a}2"))

        assert one == other
        assert 9 * self.second < one - before < 60

    @pytest.mark.parametrize("number", [0.1 + 0.2, 1 / 3, -1e-9, 2.0**53, 1e300, 0.0])
    async def test_numbers_come_back_to_the_last_bit(self, store: Store, number: float) -> None:
        assert await store.apply(swap(number)) == [(0,)]
        assert await store.apply(swap(0)) == [(number,)]

    # Leases

    async def test_there_are_as_many_leases_as_slots(self, store: Store) -> None:
        async with store.lease("key", 2, ttl=60), store.lease("key", 2, ttl=60):
            with pytest.raises(Full):
                await hold(store, 2)
            await hold(store, 2, "other")
        await hold(store, 2)

    async def test_the_number_of_slots_may_change_while_some_are_taken(self, store: Store) -> None:
        async with store.lease("key", 2, ttl=60):
            with pytest.raises(Full):
                await hold(store, 1)
            async with store.lease("key", 2, ttl=60):
                await hold(store, 3)
        with pytest.raises(Full):
            await hold(store, 0)

    async def test_a_slot_is_given_back_once_when_something_fails(self, store: Store) -> None:
        async with store.lease("key", 2, ttl=60):
            with pytest.raises(ZeroDivisionError):
                async with store.lease("key", 2, ttl=60):
                    raise ZeroDivisionError

            assert await free(store, 2) == 1

    async def test_a_slot_is_given_back_once_when_its_holder_is_cancelled(
        self, store: Store
    ) -> None:
        async with store.lease("key", 3, ttl=60):
            holding = [await holder(store, 3) for _ in range(2)]
            assert await free(store, 3) == 0
            for task in holding:
                task.cancel()
                task.cancel()
            await asyncio.gather(*holding, return_exceptions=True)

            assert await free(store, 3) == 2

    async def test_no_slot_is_lost_when_asking_for_one_is_cancelled(self, store: Store) -> None:
        for turns in range(40):
            asking = asyncio.create_task(hold(store, 1))
            for _ in range(turns):
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

            assert await free(store, 1) == 1

    async def test_a_refusal_takes_no_slot(self, store: Store) -> None:
        async with store.lease("key", 1, ttl=60):
            for _ in range(3):
                with pytest.raises(Full):
                    await hold(store, 1)

        assert await free(store, 1) == 1

    async def test_the_slots_hold_however_many_ask_at_once(self, store: Store) -> None:
        decided = asyncio.Barrier(50)

        async def ask() -> bool:
            try:
                async with store.lease("key", 10, ttl=60):
                    await decided.wait()
                    return True
            except Full:
                await decided.wait()
                return False

        assert sum(await asyncio.gather(*(ask() for _ in range(50)))) == 10
        assert await free(store, 10) == 10

    async def test_a_lease_may_end_in_another_task(self, store: Store) -> None:
        lease = store.lease("key", 1, ttl=60)
        await asyncio.create_task(lease.__aenter__())
        assert await free(store, 1) == 0

        await lease.__aexit__(None, None, None)

        assert await free(store, 1) == 1

    async def test_a_lease_beyond_its_time_leaves_its_slot_to_the_next(
        self, store: Store, clock: Clock
    ) -> None:
        async with store.lease("key", 2, ttl=10 * self.second), store.lease("key", 2, ttl=60):
            clock.advance(8 * self.second)
            assert await free(store, 2) == 0
            clock.advance(4 * self.second)
            assert await free(store, 2) == 1

    async def test_a_lease_that_ends_beyond_its_time_gives_back_nobody_elses_slot(
        self, store: Store, clock: Clock
    ) -> None:
        async with AsyncExitStack() as late:
            await late.enter_async_context(store.lease("key", 1, ttl=1 * self.second))
            clock.advance(2 * self.second)
            await hold(store, 1)  # the last one out, but for the late one
            async with store.lease("key", 1, ttl=60):
                await late.aclose()

                assert await free(store, 1) == 0

    # The store itself

    async def test_it_says_what_it_is_and_that_it_is_well(self, store: Store) -> None:
        assert await store.probe()
        assert store.fault is None

    async def test_closing_twice_is_fine(self) -> None:
        store = await self.make()

        await store.aclose()
        await store.aclose()
