"""What workers and replicas share: the contract that memory and Redis keep.

Keys are text, values bytes. Everything is bounded: what is kept has a time to live, each store a
size. What must happen as a whole is a step. Values, numbers and leases do not meet: the same key
may stand for one of each. Times to live are in seconds; what has none left is gone. A store that
does not answer within its time says so with `Unavailable`: whoever asked decides what that means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, TypeAlias

from headrace.errors import HeadraceError
from headrace.given import given

if TYPE_CHECKING:
    from limits.aio.storage import Storage

Value: TypeAlias = Mapping[str, float]
"""What a step keeps under its key: named numbers, so that Redis can hold them as a hash."""


New: TypeAlias = "Value | Literal[False] | None"
"""What a step leaves: another value, none, or False where it refuses."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One atomic change of the numbers under one key: a function, and its twin in Lua.

    `run(value, now, arguments)` gets what is there (empty at first), the store's own clock in
    seconds, and `arguments`; it returns the new value (None removes it) and an answer of numbers.
    False in place of the value refuses: then no step that is applied together with this one has
    happened, and all of them still answer. It is pure and fast. `lua` is the body of the same
    function for where the store is Redis:

        if (value.taken or 0) >= arguments[1] then return false, {0} end
        return {taken = (value.taken or 0) + 1}, {1}

    Keys that differ share a `{tag}` if their steps are applied together, so that a cluster keeps
    them in one place. `ttl` counts from the last time the step wrote.
    """

    key: str
    run: Callable[[Value, float, Sequence[float]], tuple[New, tuple[float, ...]]]
    lua: str
    arguments: Sequence[float] = ()
    ttl: float


class Full(HeadraceError):
    """A lease is not to be had: all its slots are taken."""


class Unavailable(HeadraceError):
    """The store does not answer, or with what makes no sense. Its message names no secret."""


class Store(Protocol):
    """Keeps what is shared; a store inherits from this. Every method is safe to cancel.

    Whatever asks it may raise `Unavailable`.
    """

    schemes: ClassVar[Sequence[str]] = ()
    """What the URLs begin with that are a value of the option which its `shorthand` names."""
    shared: ClassVar[bool] = False
    """Whether other processes see what is kept."""
    fault: str | None = None
    """Why it does not answer at the moment; None while it does."""
    place: str = ""
    """Its host and port, for those who operate it; nothing where it has none."""

    @staticmethod
    def of_server() -> Store:
        """The store of the gateway that is being built; outside of one, memory of its own."""
        if store := given(Store):
            return store
        from headrace.store.memory import Memory

        return Memory()

    async def get(self, key: str) -> bytes | None:
        """The value, if it is there and its time is not over."""

    async def set(self, key: str, value: bytes, *, ttl: float) -> bool:
        """Keep a value; False, and nothing changes, where it is larger than the store takes."""

    async def delete(self, key: str) -> bool:
        """Forget a value; whether there was one."""

    async def clear(self, prefix: str) -> int:
        """Forget all values whose key begins so; how many there were, as far as that is known."""

    async def apply(self, *steps: Step) -> list[tuple[float, ...]]:
        """Run all steps as one, each seeing what those before it wrote; their answers.

        When one of them fails, or refuses, none has happened. Cancelled, it may have happened all
        the same; raises ValueError for keys that differ and share no `{tag}`.
        """

    def lease(self, key: str, slots: int, *, ttl: float) -> AbstractAsyncContextManager[None]:
        """Hold one of `slots` under `key`; raises `Full` where none is free.

        It is given back on every way out, once; `ttl` is the backstop if the process dies, so it
        is longer than anything that is held.
        """

    def windows(self) -> Storage:
        """What the library `limits` keeps its windows in, in the same place as all else.

        Raises `NotImplementedError`, with what to use instead, where that cannot be.
        """
        raise NotImplementedError("this store keeps no windows; use the token bucket")

    async def probe(self) -> str:
        """Ask whether it is there: what it says of itself, in a few words."""

    async def aclose(self) -> None:
        """Let go of connections. Twice is fine."""


def together(steps: Sequence[Step]) -> None:
    """Check that these steps may be applied together. Raises ValueError where they may not."""
    tags = {tag_of(step.key) for step in steps}
    if len(tags) > 1:
        raise ValueError(f"steps that are applied together share a {{tag}} in their keys: {tags}")


def tag_of(key: str) -> str:
    """The part of a key that says where a cluster keeps it (redis.io, "Redis cluster spec")."""
    _, opened, rest = key.partition("{")
    tag, closed, _ = rest.partition("}")
    return tag if opened and closed and tag else key
