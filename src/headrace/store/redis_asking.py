"""Asking Redis: in time, or not at all; and what to do when it does not answer."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from time import perf_counter
from typing import TypeVar

from headrace.options import Duration
from headrace.store import Unavailable
from headrace.store.redis_breaker import Breaker
from headrace.store.redis_connections import (
    Command,
    NoScriptError,
    Pool,
    Read,
    ResponseError,
    reason,
)
from headrace.store.redis_replies import called, scanned, whole
from headrace.store.redis_scripts import TRY, Script, StepFailed
from headrace.store.redis_servers import servers_of
from headrace.store.redis_url import Location

Answer = TypeVar("Answer")

PATIENCE = 1.0
"""For how many seconds to wait, at least, where no call waits: connecting takes longest."""
CALLS_WAIT = 0.05
"""For how many seconds a call waits for its store, whatever `timeout` says."""
OWED = 10_000
"""How many leases to remember that could not be given back; their time ends the others."""


class Asking:
    """Asks what is at a location, each time within `timeout` seconds.

    Whatever goes wrong is `Unavailable`; when it has gone wrong a few times in a row, it is so at
    once, until a script can write `key`, which is nobody else's.
    """

    def __init__(
        self,
        where: Location,
        *,
        tls: ssl.SSLContext | None,
        connections: int,
        timeout: Duration,
        key: bytes,
    ) -> None:
        self._pool = Pool(connections, where.login, tls)
        self._servers = servers_of(where, self._pool)
        self._breaker = Breaker(str(where), self._mend)
        self._password = where.login.password.reveal() if where.login.password else None
        self._timeout = timeout
        self._patience = max(PATIENCE, timeout)
        self._key = key
        self._owed: set[tuple[bytes, str]] = set()

    @property
    def fault(self) -> str | None:
        """Why it does not answer at the moment."""
        return self._breaker.fault

    async def begin(self) -> None:
        """Find out whether it answers, so that no call has to."""
        if why := await self._mend():
            self._breaker.open(why)

    def check(self) -> None:
        """Raise `Unavailable` where it is known that it does not answer."""
        if self.fault is not None:
            raise Unavailable(self.fault)

    async def ask(self, key: bytes, command: Command, read: Read[Answer]) -> Answer:
        """What is answered to one command."""
        async with self._in_time():
            return await self._servers.ask(key, command, read)

    async def run(
        self,
        script: Script,
        keys: Sequence[bytes],
        arguments: Sequence[str | int],
        read: Read[Answer],
    ) -> Answer:
        """What a script answers."""
        async with self._in_time():
            return await self._run(script, keys, arguments, read)

    async def clear(self, pattern: bytes) -> int:
        """Forget every key like `pattern`, some at a time; how many there were."""
        gone = 0
        async with self._in_time():
            masters = await self._servers.masters()
        for master in masters:
            cursor: bytes | None = b"0"
            while cursor:
                scan = ("SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
                async with self._in_time():
                    cursor, keys = await self._pool.ask(master, scan, scanned)
                for some in self._servers.together(keys):
                    gone += await self.ask(some[0], ("UNLINK", *some), whole)
        return gone

    async def give_back(self, key: bytes, lease: str) -> None:
        """End a lease: now, or as soon as that can be."""
        try:
            await self.ask(key, ("ZREM", key, lease), whole)
        except Unavailable:
            self.owe(key, lease)

    def owe(self, key: bytes, lease: str) -> None:
        """End a lease, if it was taken, as soon as that can be."""
        if len(self._owed) < OWED:
            self._owed.add((key, lease))
        self._breaker.mend()

    async def describe(self) -> str:
        """What it says of itself, whatever was noticed before. Raises `Unavailable`."""
        try:
            took = await self._try()
            async with asyncio.timeout(self._patience):
                said = await self._servers.ask(self._key, ("INFO", "server"), called)
                masters = await self._servers.masters()
        except Exception as error:
            raise Unavailable(self._why(error)) from error
        return f"{said} at {', '.join(map(str, masters))}, {took * 1000:.1f} ms"

    async def aclose(self) -> None:
        """Let go of everything."""
        await self._breaker.aclose()
        self._pool.close()

    async def _run(
        self,
        script: Script,
        keys: Sequence[bytes],
        arguments: Sequence[str | int],
        read: Read[Answer],
    ) -> Answer:
        told = (len(keys), *keys, *arguments)
        try:
            return await self._servers.ask(keys[0], ("EVALSHA", script.name, *told), read)
        except NoScriptError:
            pass  # it is the first time here, or the server has forgotten it
        try:
            return await self._servers.ask(keys[0], ("EVAL", script.text, *told), read)
        except ResponseError as error:
            if "compiling" in str(error):
                raise StepFailed(f"a step fails: {error}") from error
            raise

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        """Around every question of a call."""
        self.check()
        loop = asyncio.get_running_loop()
        until = loop.time() + self._timeout
        try:
            async with asyncio.timeout_at(until):
                yield
        except (StepFailed, NoScriptError):
            raise  # it answers
        except asyncio.CancelledError:
            # Who asked may have had less patience. A client that leaves has most often had more.
            waited = loop.time() - (until - self._timeout)
            if waited > 0.9 * min(self._timeout, CALLS_WAIT):
                self._breaker.failed(f"nothing came within {waited * 1000:.0f}ms")
            raise
        except Exception as error:  # for what is no reply, redis-py raises anything
            why = self._why(error)
            # If even the loop was late, it was this process that was busy, and not the store.
            if not isinstance(error, TimeoutError) or loop.time() < until + self._timeout:
                self._breaker.failed(why)
            self._forget(error)
            raise Unavailable(why) from error
        self._breaker.worked()

    async def _mend(self) -> str | None:
        """Try whether it answers, and give back what is owed; why that cannot be."""
        try:
            await self._try()
            async with asyncio.timeout(self._patience):
                while self._owed:
                    key, lease = owed = next(iter(self._owed))
                    await self._servers.ask(key, ("ZREM", key, lease), whole)
                    self._owed.discard(owed)
        except Exception as error:  # noqa: BLE001  as above
            self._forget(error)
            return self._why(error)
        return None

    async def _try(self) -> float:
        """Ask every master, and write as calls do; how many seconds that took."""
        async with asyncio.timeout(self._patience):
            await self._servers.masters()
            await self._run(TRY, [self._key], (), whole)
        started = perf_counter()
        async with asyncio.timeout(self._timeout):
            await self._run(TRY, [self._key], (), whole)
        return perf_counter() - started

    def _forget(self, error: Exception) -> None:
        """Look for another master next time; one that is merely slow needs no new connections."""
        if not isinstance(error, TimeoutError) or self.fault is not None:
            self._servers.forget()

    def _why(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return f"nothing came within {self._timeout}"
        why = reason(error)
        return (why.replace(self._password, "***") if self._password else why)[:200]
