"""One fetch for all workers and replicas: whose turn it is, and what was fetched."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from headrace import Step, Store, Unavailable, sha256


@dataclass(frozen=True)
class Turn:
    """Whether to fetch now, and what time it is for all that share a store."""

    mine: bool
    at: float | None
    """The store's time; None where none of them can be asked."""
    asked: float = field(default_factory=lambda: asyncio.get_running_loop().time())

    def age(self, at: float) -> float:
        """Seconds since a time of the store."""
        if self.at is None:
            return math.inf
        return max(0.0, self.at - at + asyncio.get_running_loop().time() - self.asked)


class Fetched(NamedTuple):
    """A document, and when somebody set out to fetch it, by the store's time."""

    document: Any
    at: float


class Alone:
    """For what everybody reads for himself."""

    async def turn(self) -> Turn:
        """Always mine."""
        return Turn(mine=True, at=None)

    async def put(self, document: Any, turn: Turn) -> None:
        """Nobody asks for it."""

    async def get(self) -> Fetched | None:
        """Nobody else fetches."""
        return None


@dataclass(frozen=True, kw_only=True)
class Shared:
    """Shares one document through the store; where that does not answer, all are alone."""

    store: Store
    key: str
    cool_down: float
    keep: float

    async def turn(self) -> Turn:
        """Mine, unless another one has set out within the cool-down."""
        try:
            [(mine, at)] = await self.store.apply(self.step())
        except Unavailable:
            return await Alone().turn()
        return Turn(mine=bool(mine), at=at)

    def step(self) -> Step:
        """Takes the turn, if it is there to be taken."""
        return Step(
            key=self.key, run=_take, lua=_TAKE, arguments=(self.cool_down,), ttl=self.cool_down
        )

    async def put(self, document: Any, turn: Turn) -> None:
        """Leave it for the others."""
        if turn.at is None:
            return
        fetched = orjson.dumps({"document": document, "at": turn.at})
        with suppress(Unavailable):  # then each of them fetches for himself
            await self.store.set(self.key, fetched, ttl=self.keep)

    async def get(self) -> Fetched | None:
        """What was left by whoever fetched last; what makes no sense is nothing."""
        try:
            kept = orjson.loads(await self.store.get(self.key) or b"null")
        except (Unavailable, orjson.JSONDecodeError):
            return None
        match kept:
            case {"document": document, "at": int() | float() as at}:
                return Fetched(document, at)
        return None


def _take(value: Any, now: float, arguments: Sequence[float]) -> tuple[Any, tuple[float, ...]]:
    if "at" in value and now - value["at"] < arguments[0]:
        return False, (0, now)
    return {"at": now}, (1, now)


_TAKE = """
    if value.at and now - value.at < arguments[1] then return false, {0, now} end
    return {at = now}, {1, now}
"""


def key_of(source: str) -> str:
    """The key that gateways with the same source share."""
    return f"jwt_auth:{sha256(source)}"
