"""What workers and replicas share: the contract that memory and Redis keep.

Keys are text, values bytes. Everything is bounded: each value has a time to live, each store a
size. What must happen as a whole is a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

being_built: ContextVar[Store] = ContextVar("store_of_server")
"""The store of the gateway whose parts are being made; set by whoever builds it."""

Value = dict[str, float]
"""What a step keeps under its key: named numbers, so that Redis can hold them as a hash."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One atomic change of the numbers under one key: a function, and its twin in Lua.

    `run(value, now, arguments)` gets what is there (empty at first), the store's own clock in
    seconds, and `arguments`; it returns the new value (None removes it) and an answer of numbers.
    It is pure and fast. `lua` does the same where the store is Redis. `ttl` is in seconds.
    """

    key: str
    run: Callable[[Value, float, Sequence[float]], tuple[Value | None, tuple[float, ...]]]
    lua: str
    arguments: Sequence[float] = ()
    ttl: float


class Full(Exception):
    """A lease is not to be had: all its slots are taken."""


class Store(Protocol):
    """Keeps what is shared. An async context manager; every method is safe to cancel."""

    @staticmethod
    def of_server() -> Store:
        """The store of the gateway that is being built; outside of one, memory of its own."""
        if store := being_built.get(None):
            return store
        from headrace.store.memory import Memory

        return Memory()

    async def get(self, key: str) -> bytes | None:
        """The value, if it is there and its time is not over."""

    async def set(self, key: str, value: bytes, *, ttl: float) -> bool:
        """Keep a value for `ttl` seconds; False where it is larger than the store takes."""

    async def delete(self, key: str) -> bool:
        """Forget a value; whether there was one."""

    async def apply(self, *steps: Step) -> list[tuple[float, ...]]:
        """Run all steps as one, each seeing what those before it wrote; their answers."""

    def lease(self, key: str, slots: int, *, ttl: float) -> AbstractAsyncContextManager[Any]:
        """Hold one of `slots` under `key`; raises `Full` where none is free.

        It is given back on every way out; `ttl` seconds are the backstop if the process dies.
        """

    async def aclose(self) -> None:
        """Let go of connections."""
