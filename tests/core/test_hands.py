"""Upstreams that somebody lets rest: every replica that shares the store knows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from headrace import Memory, Rests, Unavailable
from headrace.hands import Hands
from headrace.testing import Clock, settled

AB = ("a", "b")


@pytest.fixture
async def two(clock: Clock) -> AsyncIterator[tuple[Hands, Hands]]:
    """Those of two replicas with one store."""
    store = Memory()
    one, other = (Hands(store=store, rests=Rests(), upstreams=AB) for _ in range(2))
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(one)
        await stack.enter_async_context(other)
        yield one, other


async def later(clock: Clock, seconds: float = 1.1) -> None:
    clock.advance(seconds)
    await settled()


def resting(hands: Hands) -> set[str]:
    return {upstream for upstream, _ in hands.rests.all}


async def test_what_one_is_told_all_know_within_a_second(
    two: tuple[Hands, Hands], clock: Clock
) -> None:
    one, other = two
    await one.rest("a", 60)
    await other.rest("b", 60)
    await later(clock)

    assert resting(one) == resting(other) == {"a", "b"}


async def test_what_is_taken_up_again_is_so_for_all(two: tuple[Hands, Hands], clock: Clock) -> None:
    one, other = two
    await one.rest("a", 60)
    await one.rest("b", 60)
    await later(clock)
    await other.resume("a")
    await later(clock)

    assert resting(one) == resting(other) == {"b"}


async def test_what_others_have_laid_down_is_left_as_it_is(
    two: tuple[Hands, Hands], clock: Clock
) -> None:
    one, other = two
    other.rests.rest(("a", None), 60, why="its probe failed", closed=True)
    await one.resume("b")
    await later(clock)

    assert resting(other) == {"a"}


async def test_what_rests_goes_along_into_another_store(clock: Clock) -> None:
    rests = Rests()
    async with Hands(store=Memory(), rests=rests, upstreams=AB) as before:
        await before.rest("a", 600)
        await before.rest("b", 600)
        await before.resume("b")
        store = Memory()
        after = Hands(store=store, rests=rests, upstreams=AB)
        after.follows(before)
    async with after, Hands(store=store, rests=Rests(), upstreams=AB) as replica:
        await later(clock)
        await later(clock)

        assert resting(after) == resting(replica) == {"a"}


async def test_it_does_so_later_where_that_store_is_gone_for_a_moment(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(self: Memory, key: str) -> bytes | None:
        raise Unavailable("gone")

    rests = Rests()
    async with Hands(store=Memory(), rests=rests, upstreams=AB) as before:
        await before.rest("a", 600)
        after = Hands(store=Memory(), rests=rests, upstreams=AB)
        after.follows(before)
    async with after:
        with monkeypatch.context() as patch:
            patch.setattr(Memory, "get", gone)
            await later(clock)
        await later(clock)
        await later(clock)

        assert resting(after) == {"a"}


async def test_a_store_that_is_gone_for_a_moment_wakes_nobody(
    two: tuple[Hands, Hands], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(self: Memory, key: str) -> bytes | None:
        raise Unavailable("gone")

    one, other = two
    await one.rest("a", 60)
    await later(clock)
    monkeypatch.setattr(Memory, "get", gone)
    await later(clock, 20)

    assert resting(other) == {"a"}
