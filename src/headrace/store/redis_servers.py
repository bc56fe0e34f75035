"""Whom to ask for a key: one server, the master that sentinels name, or a node of a cluster."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Protocol, TypeVar

from headrace.store import Unavailable
from headrace.store.redis_connections import (
    AskError,
    Command,
    MovedError,
    Pool,
    Read,
    RedisError,
    Unreached,
    key_slot,
    reason,
)
from headrace.store.redis_replies import master_at, nodes_of, pong, well
from headrace.store.redis_url import Address, Location

Answer = TypeVar("Answer")

HOPS = 5
"""How many nodes of a cluster are asked one thing, each named by the last."""


class Servers(Protocol):
    """One server, or several that are as one."""

    async def ask(self, key: bytes, command: Command, read: Read[Answer]) -> Answer:
        """What the server that has `key` answers."""

    async def masters(self) -> list[Address]:
        """Every server that is written to, each asked whether it is there."""

    def together(self, keys: Sequence[bytes]) -> Iterable[Sequence[bytes]]:
        """Those that one command may name: all of them."""
        return [keys] if keys else []

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


class One(Servers):
    """One server."""

    def __init__(self, pool: Pool, address: Address) -> None:
        self._pool = pool
        self._address = address

    async def ask(self, key: bytes, command: Command, read: Read[Answer]) -> Answer:
        """What it answers."""
        return await self._pool.ask(self._address, command, read)

    async def masters(self) -> list[Address]:
        """It alone."""
        await self._pool.ask(self._address, ("PING",), pong)
        return [self._address]

    def forget(self) -> None:
        """Connections alone: its name may lead elsewhere now."""
        self._pool.drop()


class Sentinel(Servers):
    """The master that sentinels name (redis.io, "Guidelines for Redis clients with Sentinel")."""

    def __init__(self, pool: Pool, sentinels: tuple[Address, ...], name: str) -> None:
        self._pool = pool
        self._sentinels = list(sentinels)
        self._name = name
        self._master: Address | None = None
        self._finding = asyncio.Lock()

    async def ask(self, key: bytes, command: Command, read: Read[Answer]) -> Answer:
        """What the master answers."""
        async with self._finding:
            master = self._master = self._master or await self._find()
        return await self._pool.ask(master, command, read)

    async def masters(self) -> list[Address]:
        """The master."""
        await self.ask(b"", ("PING",), pong)
        return [self._master] if self._master else []

    def forget(self) -> None:
        """Ask the sentinels again."""
        self._master = None
        self._pool.drop()

    async def _find(self) -> Address:
        command = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._name)
        why = "they know no master of this name"
        for _ in self._sentinels:
            self._sentinels.append(asked := self._sentinels.pop(0))  # so that a silent one is last
            try:
                if master := await self._pool.ask_once(asked, command, master_at):
                    return master
            except (Unreached, RedisError, OSError, ValueError) as error:
                why = reason(error)
        raise Unavailable(f"none of its sentinels helps: {why}")


class Cluster(Servers):
    """A cluster, whose nodes tell one by one who has a key (redis.io, "Redis cluster spec")."""

    def __init__(self, pool: Pool, seeds: tuple[Address, ...]) -> None:
        self._pool = pool
        self._nodes = list(seeds)
        """Whom to ask what is not known, those that failed last."""
        self._homes: dict[int, Address] = {}
        """Who has a slot, as far as that was told."""

    async def ask(self, key: bytes, command: Command, read: Read[Answer]) -> Answer:
        """What the node that has the key answers."""
        slot, asking, why = key_slot(key), False, ""
        address = self._homes.get(slot) or self._nodes[0]
        for _ in range(HOPS):
            try:
                return await self._pool.ask(address, command, read, asking=asking)
            except AskError as elsewhere:
                address = Address(elsewhere.host or address.host, elsewhere.port)
                asking = not isinstance(elsewhere, MovedError)
                if not asking:
                    self._learn(slot, address)
                why = "its nodes do not agree on who has a key"
            except Unreached as error:
                self._unlearn(slot, address)
                address, asking, why = self._nodes[0], False, str(error)
            except BaseException:
                self._unlearn(slot, address)  # its keys may be with another by now
                raise
        raise Unavailable(why)

    async def masters(self) -> list[Address]:
        """All nodes that have slots."""
        nodes = await self._all()
        for node in nodes:
            if not await self._pool.ask(node, ("CLUSTER", "INFO"), well):
                raise Unavailable(f"its cluster is down, says {node}")
        return nodes

    async def _all(self) -> list[Address]:
        why = ""
        for _ in self._nodes:
            self._nodes.append(asked := self._nodes.pop(0))  # so that a silent one is last
            try:
                read = partial(nodes_of, asked=asked.host)
                return await self._pool.ask(asked, ("CLUSTER", "SLOTS"), read)
            except Unreached as error:
                why = str(error)
        raise Unavailable(why)

    def _learn(self, slot: int, address: Address) -> None:
        self._homes[slot] = address
        if address not in self._nodes:
            self._nodes.append(address)

    def _unlearn(self, slot: int, address: Address) -> None:
        self._homes.pop(slot, None)
        if address in self._nodes:
            self._nodes.remove(address)
            self._nodes.append(address)

    def together(self, keys: Sequence[bytes]) -> Iterable[Sequence[bytes]]:
        """Those of one slot."""
        slots: dict[int, list[bytes]] = defaultdict(list)
        for key in keys:
            slots[key_slot(key)].append(key)
        return slots.values()

    def forget(self) -> None:
        """Nothing: what failed was forgotten when it did."""
