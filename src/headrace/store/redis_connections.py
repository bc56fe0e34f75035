"""Connections to Redis, through redis-py.

Of redis-py this uses the connection, which speaks the protocol, and neither client nor pool: they
cost half as much CPU again, try again behind one's back, and believe every reply.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from itertools import count
from typing import Any, TypeAlias, TypeVar

import redis.asyncio
from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    InvalidResponse,
    MasterDownError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from headrace.store import Unavailable
from headrace.store.redis_replies import Garbage
from headrace.store.redis_url import Address, Login

__all__ = [
    "AskError", "AuthenticationError", "Client", "Command", "MovedError", "NoScriptError",
    "Pool", "Read", "RedisError", "ResponseError", "Unreached", "key_slot", "reason",
]  # fmt: skip

Answer = TypeVar("Answer")
Command: TypeAlias = "tuple[str | bytes | int, ...]"
Read: TypeAlias = Callable[[object], Answer]
"""Makes an answer of a reply; raises `Garbage` for one that cannot be."""


class Unreached(Unavailable):
    """There is no connection, so nothing was asked. It says why, in words."""


class Pool:
    """At most so many connections in use, and those waited for.

    A connection is used again only if its last question was answered to the end: one that was
    interrupted, or said what makes no sense, is thrown away.
    """

    def __init__(self, most: int, login: Login, tls: ssl.SSLContext | None) -> None:
        self._free = asyncio.Semaphore(most)
        self._login = login
        self._tls = tls
        self._numbers = count(secrets.randbits(60))
        self._kept: dict[Address, list[_Link]] = {}
        self._closed = False

    async def ask(
        self, address: Address, command: Command, read: Read[Answer], *, asking: bool = False
    ) -> Answer:
        """What the server at `address` answers, as `read` understands it.

        `asking` goes before it where a cluster is moving the key there.
        """
        async with self._free:
            kept = self._kept.setdefault(address, [])
            link = await _quiet(kept) or await self._opened(address, self._login)
            try:
                answer = read(await link.ask(command, next(self._numbers), asking=asking))
            except ResponseError:
                self._keep(address, kept, link)
                raise
            except BaseException:
                link.abort()
                raise
            self._keep(address, kept, link)
            return answer

    async def ask_once(self, address: Address, command: Command, read: Read[Answer]) -> Answer:
        """The same over a connection of its own; with a password only where one is wanted."""
        try:
            return await self._once(address, Login(), command, read)
        except AuthenticationError:
            login = Login(self._login.user, self._login.password)
            return await self._once(address, login, command, read)

    def drop(self) -> None:
        """Let go of every connection; those in use when they are done."""
        for links in self._kept.values():
            for link in links:
                link.abort()
        self._kept = {}

    def close(self) -> None:
        """The same for good."""
        self._closed = True
        self.drop()

    async def _once(
        self, address: Address, login: Login, command: Command, read: Read[Answer]
    ) -> Answer:
        link = await self._opened(address, login)
        try:
            return read(await link.ask(command, next(self._numbers)))
        finally:
            link.abort()

    async def _opened(self, address: Address, login: Login) -> _Link:
        link = _Link(address, login, self._tls)
        try:
            await link.connect_check_health(check_health=False, retry_socket_connect=False)
        except BaseException as error:
            link.abort()
            if isinstance(error.__cause__, Unreached):
                raise error.__cause__ from None  # redis-py put it into an error of its own
            raise
        return link

    def _keep(self, address: Address, kept: list[_Link], link: _Link) -> None:
        if self._kept.get(address) is kept and not self._closed:
            kept.append(link)
        else:
            link.abort()  # it comes from before they were dropped


async def _quiet(kept: list[_Link]) -> _Link | None:
    """The connection used last that is open and has said nothing since."""
    while kept:
        link = kept.pop()
        with suppress(RedisError, OSError):
            if not await link.can_read():
                return link
        link.abort()
    return None


class _Link(redis.asyncio.Connection):
    """One connection, which knows that an answer is its own.

    Behind every question goes a PING with a number that was never used before: what comes back
    without that number behind it was meant for another question.
    """

    def __init__(self, address: Address, login: Login, tls: ssl.SSLContext | None) -> None:
        self._tls = tls
        super().__init__(
            host=address.host,
            port=address.port,
            username=login.user,
            password=login.password and login.password.reveal(),
            db=login.database,
            protocol=2,
            socket_timeout=None,  # whoever asks says how long, for all of it
            driver_info=None,  # it would cost two more questions
        )

    async def ask(self, command: Command, number: int, *, asking: bool = False) -> object:
        """The reply to one command. Raises ResponseError for an error that is the answer."""
        before = [("ASKING",)] if asking else []
        packed = self.pack_commands([*before, command, ("PING", number)])
        await self.send_packed_command(packed, check_health=False)
        for _ in before:
            await self._reply()
        reply = await self._reply()
        if await self._reply() != b"%d" % number:
            raise Garbage("the reply to another question")
        if isinstance(reply, ResponseError):
            raise reply
        return reply

    async def _reply(self) -> object:
        try:
            return await self.read_response()
        except ResponseError as error:
            return error

    def abort(self) -> None:
        """Let go of it at once: closing in order would wait for a server that may be silent."""
        if self._writer:
            self._writer.transport.abort()
        self._reader = self._writer = None

    async def disconnect(self, *_: Any, **__: Any) -> None:
        """What redis-py does when something fails."""
        self.abort()

    async def _connect(self) -> None:
        try:
            await super()._connect()  # type: ignore[no-untyped-call]
        except OSError as error:
            raise Unreached(_unreached(error)) from error

    def _connection_arguments(self) -> Mapping[str, Any]:
        return {**super()._connection_arguments(), "ssl": self._tls}


class Client(redis.asyncio.Redis):
    """redis-py's client, for a library that wants one; what it is asked goes to `ask`."""

    def __init__(self, ask: Callable[[Command], Awaitable[object]]) -> None:
        super().__init__()
        self._ask = ask

    async def execute_command(self, *args: Any, **options: Any) -> object:
        """The reply as it is."""
        return await self._ask(args)


def reason(error: Exception) -> str:
    """Why there is no answer, in a few words."""
    match error:
        case Unavailable():
            return str(error)
        case AskError():
            return "it is a node of a cluster; write redis+cluster:// in its url"
        case AuthenticationError():
            return "it wants a user and a password, and not these"
        case NoPermissionError():
            return f"this user may not do what a store must: {_words(error)}"
        case ReadOnlyError():
            return "it is a read-only replica"
        case OutOfMemoryError():
            return "its memory is full"
        case BusyLoadingError():
            return "it is still loading its data"
        case MasterDownError():
            return "it is a replica that has lost its master"
        case ClusterDownError():
            return f"its cluster is down: {_words(error)}"
        case ResponseError():
            return f"it says: {_words(error)}"
        case RedisError() | OSError() if not isinstance(error, InvalidResponse):
            return "the connection was lost"
        case _:
            return "it answers what makes no sense"


def _unreached(error: OSError) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return f"its certificate cannot be verified: {error.verify_message}"
        case ssl.SSLError():
            return "it speaks no TLS, or none that is safe"
        case socket.gaierror():
            return "its name cannot be resolved"
        case ConnectionRefusedError():
            return "it refuses connections"
        case _:
            return "it takes no connection"


def _words(error: Exception) -> str:
    """What the server said, as a line of a log may have it."""
    return "".join(char if char.isprintable() else " " for char in str(error))[:2000]
