"""Whom to ask for a key: one server, the master that sentinels name, or a node of a cluster."""

from __future__ import annotations

import asyncio
import random
from typing import Protocol, TypeVar

from headrace.store.redis_connections import (
    AskError,
    Command,
    Garbage,
    MovedError,
    Pool,
    Read,
    RedisError,
    key_slot,
)
from headrace.store.redis_url import Address, Location

Answer = TypeVar("Answer")


class Servers(Protocol):
    """One server, or several that are as one."""

    async def ask(self, key: bytes, command: Command, read: Read[Answer]) -> Answer:
        """What the server that has `key` answers."""

    async def masters(self) -> list[Address]:
        """Every server that is written to."""

    def forget(self) -> None:
        """Find out anew who is to be asked."""


def servers_of(location: Location, pool: Pool) -> Servers:
    """Those at a location."""
    match location.kind:
        case "one":
            return One(pool, location.servers[0])
        case "sentinel":
            return Sentinel(pool, location.servers, location.master)
        case "cluster":
            return Cluster(pool, location.servers)


class One:
    """One server."""

    def __init__(self, pool: Pool, address: Address) -> None:
        self._pool = pool
        self._address = address

    async def ask(self, key: bytes, command: Command, read: Read[Answer]) -> Answer:
        """What it answers."""
        return await self._pool.ask(self._address, command, read)

    async def masters(self) -> list[Address]:
        """It alone."""
        return [self._address]

    def forget(self) -> None:
        """Connections alone: its name may lead elsewhere now."""
        self._pool.drop()


class Sentinel:
    """The master that sentinels name (redis.io, "Guidelines for Redis clients with Sentinel")."""

    def __init__(self, pool: Pool, sentinels: tuple[Address, ...], name: str) -> None:
        self._pool = pool
        self._sentinels = list(sentinels)
        self._name = name
        self._master: Address | None = None
        self._finding = asyncio.Lock()

    async def ask(self, key: bytes, command: Command, read: Read[Answer]) -> Answer:
        """What the master answers."""
        [master] = await self.masters()
        return await self._pool.ask(master, command, read)

    async def masters(self) -> list[Address]:
        """The master."""
        async with self._finding:
            self._master = self._master or await self._find()
            return [self._master]

    def forget(self) -> None:
        """Ask the sentinels again."""
        self._master = None
        self._pool.drop()

    async def _find(self) -> Address:
        command = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._name)
        failed: Exception = Garbage("the sentinels know no master of this name")
        for _ in self._sentinels:
            self._sentinels.append(asked := self._sentinels.pop(0))  # so that a silent one is last
            try:
                if master := await self._pool.ask_once(asked, command, _master):
                    return master
            except (RedisError, OSError, ValueError) as error:
                failed = error
        raise failed


class Cluster:
    """A cluster, whose nodes tell one by one who has a key (redis.io, "Redis cluster spec")."""

    def __init__(self, pool: Pool, seeds: tuple[Address, ...]) -> None:
        self._pool = pool
        self._seeds = seeds
        self._homes: dict[int, Address] = {}
        """Who has a slot, as far as that was told."""

    async def ask(self, key: bytes, command: Command, read: Read[Answer]) -> Answer:
        """What the node that has the key answers."""
        slot = key_slot(key)
        address, asking = self._homes.get(slot) or self._somebody(), False
        for last in (False, False, True):
            try:
                return await self._pool.ask(address, command, read, asking=asking)
            except AskError as elsewhere:
                if last:
                    raise
                address = Address(elsewhere.host or address.host, elsewhere.port)
                asking = not isinstance(elsewhere, MovedError)
                if not asking:
                    self._homes[slot] = address
            except BaseException:
                self._homes.pop(slot, None)  # it may have moved away from one that is silent
                raise
        raise AssertionError("the last of them returned or raised")

    async def masters(self) -> list[Address]:
        """All nodes that have slots."""
        asked = self._somebody()
        return await self._pool.ask(
            asked, ("CLUSTER", "SLOTS"), lambda reply: _nodes(reply, asked.host)
        )

    def forget(self) -> None:
        """Ask the nodes that are written down."""
        self._homes = {}
        self._pool.drop()

    def _somebody(self) -> Address:
        return random.choice([*self._seeds, *set(self._homes.values())])  # noqa: S311  no secret


def _master(reply: object) -> Address | None:
    match reply:
        case None:
            return None
        case [bytes(host), bytes(port)]:
            return Address(host.decode(), int(port))
    raise Garbage("no address of a master")


def _nodes(reply: object, asked: str) -> list[Address]:
    """The masters of a reply to CLUSTER SLOTS; a node may not know its own host."""
    found: set[Address] = set()
    for slots in reply if isinstance(reply, list) else ():
        match slots:
            case [int(), int(), [host, int(port), *_], *_]:
                found.add(Address(host.decode() if host else asked, port))
    if not found:
        raise Garbage("no nodes of a cluster")
    return sorted(found)
