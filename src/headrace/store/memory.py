"""A store in this process's own memory: for one worker, and for tests."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property
from sys import getsizeof
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from headrace.options import Size
from headrace.store import Full, Step, Store, Value, together

if TYPE_CHECKING:
    from limits.aio.storage import Storage

Kept = TypeVar("Kept")


@dataclass(kw_only=True, eq=False)
class Memory(Store):
    """Keep what is shared in this process; other workers and replicas do not see it."""

    entries: int = 100_000
    """How many values, and how many steps' numbers; the least recently used go first."""
    size: Size = field(default_factory=lambda: Size(64_000_000))
    """How many bytes of values, and as many of numbers, all that Python needs for them included."""
    value: Size = field(default_factory=lambda: Size(1_000_000))
    """How large a single value may be, in bytes."""

    def __post_init__(self) -> None:
        # Apart, because a full cache must not push out what limits are counted with.
        self._values, self._numbers = _Bounded[bytes](), _Bounded[Value]()
        # Without a bound: there are as many as calls are running, and no limit may forget one.
        self._leases: dict[str, dict[object, float]] = {}

    def follows(self, before: Memory) -> None:
        """Go on with what was kept, within the bounds of this one."""
        self._values, self._numbers = before._values, before._numbers
        self._leases = before._leases
        if "_windows" in vars(before):
            vars(self)["_windows"] = before._windows

    async def get(self, key: str) -> bytes | None:
        """The value, if it is there and its time is not over."""
        return self._values.get(key, _now())

    async def set(self, key: str, value: bytes, *, ttl: float) -> bool:
        """Keep a value for `ttl` seconds; False where it is larger than `value`, or than all."""
        if len(value) > min(self.value, self.size):
            return False
        until, bounds = _now() + ttl, self._bounds
        self._values.put(key, value, until, getsizeof(value), **bounds)
        return True

    async def delete(self, key: str) -> bool:
        """Forget a value; whether there was one."""
        there = self._values.get(key, _now()) is not None
        self._values.drop(key)
        return there

    async def clear(self, prefix: str) -> int:
        """Forget all values whose key begins so; how many there were."""
        return self._values.clear(prefix)

    async def apply(self, *steps: Step) -> list[tuple[float, ...]]:
        """Run all steps as one: nothing awaits in here, and nothing is kept until all have run."""
        together(steps)
        now = _now()
        values: dict[str, Value | None] = {}
        answers = []
        refused = False
        for step in steps:
            if step.key not in values:
                values[step.key] = self._numbers.get(step.key, now)
            value, answer = step.run(values[step.key] or {}, now, step.arguments)
            answers.append(answer)
            if value is False:
                refused = True
            else:
                values[step.key] = value
        if refused:
            return answers
        until = {step.key: now + step.ttl for step in steps}
        for key, value in values.items():
            if value:
                weight = getsizeof(value) + NUMBER * len(value)
                self._numbers.put(key, value, until[key], weight, **self._bounds)
            else:
                self._numbers.drop(key)
        return answers

    @property
    def _bounds(self) -> dict[str, int]:
        return {"most": self.entries, "size": self.size}

    @asynccontextmanager
    async def lease(self, key: str, slots: int, *, ttl: float) -> AsyncIterator[None]:
        """Hold one of `slots` under `key`; raises `Full` where none is free."""
        now = _now()
        held = self._leases.get(key, {})
        if len(held) >= slots:
            held = {lease: until for lease, until in held.items() if until > now}
        if len(held) >= slots:
            raise Full(f"all {slots} slots of {key!r} are taken")
        lease = object()
        held[lease] = now + ttl
        self._leases[key] = held
        try:
            yield
        finally:
            # Looked up again: once this lease had expired, the slots under the key may be others'.
            held = self._leases.get(key, {})
            held.pop(lease, None)
            if not held:
                self._leases.pop(key, None)

    def windows(self) -> Storage:
        """A memory of the library's own."""
        return self._windows

    @cached_property
    def _windows(self) -> Storage:
        from limits.aio.storage import MemoryStorage

        return MemoryStorage()

    async def probe(self) -> str:
        """It is always there."""
        return "this process's own memory"

    async def aclose(self) -> None:
        """Nothing is open."""


ENTRY = 256
"""Bytes that an entry costs beside its key and value: a place in the order, a tuple, a time."""

NUMBER = 32
"""Bytes that a number costs in a dictionary that is already there."""


class _Entry(NamedTuple, Generic[Kept]):
    value: Kept
    until: float
    weight: int


class _Bounded(Generic[Kept]):
    """What is kept of one kind, the least recently used first, none of it beyond its time."""

    def __init__(self) -> None:
        self._weight = 0
        self._kept: OrderedDict[str, _Entry[Kept]] = OrderedDict()

    def get(self, key: str, now: float) -> Kept | None:
        """What is there; it counts as used."""
        entry = self._kept.get(key)
        if entry is None:
            return None
        if entry.until <= now:
            self.drop(key)
            return None
        self._kept.move_to_end(key)
        return entry.value

    def put(
        self, key: str, value: Kept, until: float, weight: int, *, most: int, size: int
    ) -> None:
        """Keep it in place of others, `most` of them, of that `size`; the newest always stays."""
        self.drop(key)
        weight += ENTRY + getsizeof(key)
        self._kept[key] = _Entry(value, until, weight)
        self._weight += weight
        while len(self._kept) > 1 and (len(self._kept) > most or self._weight > size):
            self.drop(next(iter(self._kept)))

    def clear(self, prefix: str) -> int:
        """Forget what begins so; how many there were."""
        found = [key for key in self._kept if key.startswith(prefix)]
        for key in found:
            self.drop(key)
        return len(found)

    def drop(self, key: str) -> None:
        """Forget it, if it is there."""
        if entry := self._kept.pop(key, None):
            self._weight -= entry.weight


def _now() -> float:
    """The running loop's clock: it never goes back, and tests can turn it."""
    return asyncio.get_running_loop().time()
