"""What stands between a store and its server in tests: a proxy, and a server that lies."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from .servers import Server

Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Between:
    """Something that listens, and knows its connections."""

    port: int = 0
    delay: float = 0
    """How many seconds each answer is held."""
    taken: int = 0
    """How many connections there were."""
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    """Those there are."""

    @property
    def url(self) -> str:
        """Its address."""
        return f"redis://127.0.0.1:{self.port}"


@asynccontextmanager
async def listening(
    between: Between, handle: Handle, tls: ssl.SSLContext | None = None
) -> AsyncIterator[None]:
    async def taken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        between.taken += 1
        between.tasks.add(task)
        try:
            await handle(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            between.tasks.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(taken, "127.0.0.1", 0, ssl=tls)
    between.port = server.sockets[0].getsockname()[1]
    try:
        yield
    finally:
        server.close()
        ending = list(between.tasks)
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)


@asynccontextmanager
async def proxy(to: Server, tls: ssl.SSLContext | None = None) -> AsyncIterator[Between]:
    """Hands on what it gets, and ends TLS where it has a certificate."""
    between = Between()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_connection("127.0.0.1", to.port)

        async def answers() -> None:
            while data := await theirs.read(65536):
                await asyncio.sleep(between.delay)
                writer.write(data)

        answering = asyncio.create_task(answers())
        try:
            while data := await reader.read(65536):
                ours.write(data)
        finally:
            answering.cancel()
            ours.transport.abort()

    async with listening(between, handle, tls):
        yield between


@asynccontextmanager
async def liar(answer: Callable[[list[bytes]], bytes | None]) -> AsyncIterator[Between]:
    """Answers a command with what `answer` makes of it; with None it ends the connection."""
    between = Between()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (said := answer(await command(reader))) is not None:
            writer.write(said)

    async with listening(between, handle):
        yield between


async def command(reader: asyncio.StreamReader) -> list[bytes]:
    """The next command that somebody sends."""
    words = []
    for _ in range(int((await reader.readuntil(b"\n"))[1:])):
        length = int((await reader.readuntil(b"\n"))[1:])
        words.append((await reader.readexactly(length + 2))[:-2])
    return words


def bulk(text: bytes) -> bytes:
    """Text, as an answer has it."""
    return b"$%d\r\n%b\r\n" % (len(text), text)
