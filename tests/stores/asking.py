"""What the tests of the store in Redis do with one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeAlias
from uuid import uuid4

import pytest

from headrace import Duration, Secret, Unavailable
from headrace.store.redis import Redis
from headrace.testing import Clock
from headrace.testing.contracts.steps import hold, upto

Ask: TypeAlias = Callable[[Redis], Awaitable[object]]

OPERATIONS: dict[str, Ask] = {
    "get": lambda store: store.get("key"),
    "set": lambda store: store.set("key", b"value", ttl=60),
    "delete": lambda store: store.delete("key"),
    "apply": lambda store: store.apply(upto(9)),
    "lease": lambda store: hold(store, 9),
}
every_operation = pytest.mark.parametrize("ask", OPERATIONS.values(), ids=OPERATIONS)


def redis_at(url: str, *, timeout: float = 5, **options: Any) -> Redis:
    """A store of its own there, as patient as a busy machine needs it."""
    options = {"prefix": uuid4().hex, **options}
    return Redis(url=Secret(url), timeout=Duration(timeout), **options)


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[Redis]:
    """The same, closed in the end."""
    store = redis_at(url, **options)
    try:
        yield store
    finally:
        await store.aclose()


async def until(true: Callable[[], bool], within: float = 10) -> None:
    """Wait for something that takes a moment of real time."""
    end = time.monotonic() + within
    while not true():
        assert time.monotonic() < end, "it did not come true"
        await asyncio.sleep(0.005)


async def warm(store: Redis) -> None:
    """Have connections and scripts ready, which takes longer than a question."""
    for ask in OPERATIONS.values():
        with suppress(Unavailable):
            await ask(store)


async def eventually(true: Callable[[], Awaitable[bool]], clock: Clock) -> None:
    """Let seconds pass until something is true that is tried once a second."""
    end = time.monotonic() + 20
    while not await true():
        assert time.monotonic() < end, "it did not come true"
        clock.advance(1.2)  # never while it is being tried, which takes a moment
        for _ in range(20):
            await asyncio.sleep(0.01)


async def failing(store: Redis, ask: Ask) -> list[str]:
    """Ask until the store is known not to answer; what was said each time."""
    said = []
    while store.fault is None:
        with pytest.raises(Unavailable) as raised:
            await ask(store)
        said.append(str(raised.value))
        assert len(said) <= 5
    return said


async def back(store: Redis, clock: Clock) -> None:
    """Let seconds pass until the store has found out that it answers again."""

    async def answers() -> bool:
        return store.fault is None

    await eventually(answers, clock)
