"""Steps and leases that the contract of stores tries."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

from headrace.store import Full, Step, Store, Value


def upto(ceiling: int, key: str = "key", *, ttl: float = 60) -> Step:
    """Count one more, up to a ceiling: whether it was counted, and how many there are."""

    def run(
        value: Value, now: float, arguments: Sequence[float]
    ) -> tuple[Value, tuple[float, ...]]:
        count = value.get("count", 0.0)
        if count >= arguments[0]:
            return value, (0, count)
        return {"count": count + 1}, (1, count + 1)

    lua = """
        local count = value.count or 0
        if count >= arguments[1] then
            return value, {0, count}
        end
        return {count = count + 1}, {1, count + 1}
    """
    return Step(key=key, run=run, lua=lua, arguments=(ceiling,), ttl=ttl)


def forget(key: str = "key") -> Step:
    """Remove what is there."""
    return Step(key=key, run=lambda *_: (None, ()), lua="return nil, {}", ttl=60)


def failing(key: str = "key") -> Step:
    """A step with a mistake in it."""

    def run(*_: object) -> tuple[Value, tuple[float, ...]]:
        raise RuntimeError("this step fails")

    return Step(key=key, run=run, lua="error('this step fails')", ttl=60)


def refusing(key: str = "key") -> Step:
    """A step that does not want what it is applied with to happen."""
    return Step(key=key, run=lambda *_: (False, (7,)), lua="return false, {7}", ttl=60)


def watch(key: str) -> Step:
    """Tell the store's time."""
    return Step(key=key, run=lambda _, now, __: (None, (now,)), lua="return nil, {now}", ttl=60)


def swap(number: float, key: str = "key") -> Step:
    """Keep a number and tell the one before."""

    def run(
        value: Value, now: float, arguments: Sequence[float]
    ) -> tuple[Value, tuple[float, ...]]:
        return {"kept": arguments[0]}, (value.get("kept", 0.0),)

    lua = "return {kept = arguments[1]}, {value.kept or 0}"
    return Step(key=key, run=run, lua=lua, arguments=(number,), ttl=60)


async def hold(store: Store, slots: int, key: str = "key") -> None:
    """Take a slot for a moment; raises `Full` where there is none."""
    async with store.lease(key, slots, ttl=60):
        pass


async def holder(store: Store, slots: int, key: str = "key") -> asyncio.Task[None]:
    """A task that has a slot and keeps it until it is cancelled."""
    decided = asyncio.Event()

    async def stay() -> None:
        try:
            async with store.lease(key, slots, ttl=60):
                decided.set()
                await asyncio.Event().wait()
        finally:
            decided.set()

    task = asyncio.create_task(stay())
    await decided.wait()
    return task


async def free(store: Store, slots: int, key: str = "key") -> int:
    """How many of the slots are free: as many as can be taken at once."""
    async with AsyncExitStack() as taken:
        for found in range(slots):
            try:
                await taken.enter_async_context(store.lease(key, slots, ttl=60))
            except Full:
                return found
    return slots
