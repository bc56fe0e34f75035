"""An HTTP server on 127.0.0.1 that does what it is told, to the byte and to the reset.

For tests of whatever talks to an upstream: transports, forwarders, plugins. It speaks over real
sockets, keeps what it was asked, and knows when the other side has left.

    async with Loopback() as server:
        server.script(status(503), "rst-midstream", answers({"ok": True}))
        ...                                             # ask server.url three times
        assert server.requests[0].target == "/v1/models"
        await server.closed(0, within=0.2)              # the first connection is over

Each request takes the next behaviour of the script, the last one again and again. A behaviour is
the steps of one answer: bytes are written as they are, `Act` and `Pause` say what bytes cannot. It
may be a function of the request that gives the steps, or the name of one of the stimuli in
`headrace.testing.misbehaviour`, where the building blocks are, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Self

from headrace.testing.misbehaviour import STIMULI, Act, Behaviour, Pause, Received, Step, status


class Loopback:
    """The server. With `tls` it speaks https."""

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._script: list[Behaviour] = [status(501, {"error": {"message": "no script"}})]
        self._news = asyncio.Event()
        self.requests: list[Received] = []
        """Every request that came in whole, in order."""
        self.connections: list[Connection] = []
        """Every connection accepted, in order."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.get_running_loop().create_server(
            lambda: Connection(self), "127.0.0.1", 0, ssl=self._tls, backlog=1000
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for connection in self.connections:
            connection.abort()
        await asyncio.gather(*(connection.served.wait() for connection in self.connections))

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """Its address, without a path."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def open(self) -> int:
        """How many connections neither side has closed."""
        return sum(not connection.over.is_set() for connection in self.connections)

    def script(self, *behaviours: Behaviour | str) -> None:
        """Answer the next requests like this, and all that follow like the last."""
        self._script = [STIMULI[each] if isinstance(each, str) else each for each in behaviours]

    async def asked(self, count: int = 1, *, within: float = 1.0) -> None:
        """Wait until `count` requests have come in whole; raises TimeoutError."""
        await self._until(lambda: len(self.requests) >= count, within)

    async def closed(self, connection: int = -1, *, within: float = 1.0) -> None:
        """Wait until either side has closed this connection; raises TimeoutError."""
        await self._until(lambda: self.connections[connection].over.is_set(), within)

    async def _until(self, true: Callable[[], bool], within: float) -> None:
        async with asyncio.timeout(within):
            while not true():
                await self._news.wait()

    def tell(self) -> None:
        """Something happened: whoever waits looks again."""
        self._news.set()
        self._news = asyncio.Event()

    async def serve(self, connection: Connection) -> None:
        """Answer the requests of one connection by the script, to its end."""
        number = self.connections.index(connection)
        nth = 0
        while True:
            received = await connection.receive(number, nth)
            self.requests.append(received)
            self.tell()
            nth += 1
            behaviour = self._script.pop(0) if len(self._script) > 1 else self._script[0]
            for step in behaviour(received) if callable(behaviour) else behaviour:
                await connection.play(step)


class Connection(asyncio.StreamReaderProtocol):
    """One connection of a server; it notices at once when the other side leaves."""

    def __init__(self, server: Loopback) -> None:
        super().__init__(asyncio.StreamReader(), self._connected)
        self._server = server
        self.over = asyncio.Event()
        """Set once either side has closed."""
        self.served = asyncio.Event()
        """Set once the server is done with it."""
        self.sent = 0
        """Bytes written so far."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accepted."""
        self._server.connections.append(self)
        super().connection_made(transport)

    def eof_received(self) -> bool | None:
        """The other side is done; a client that sends no more wants no more."""
        self._end()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Both sides are done."""
        self._end()
        super().connection_lost(exc)

    def _end(self) -> None:
        self.over.set()
        self._server.tell()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        try:
            # However it ends, the test looks at what it sees of it, not at this task.
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                await self._server.serve(self)
        finally:
            writer.transport.abort()
            self.served.set()

    def abort(self) -> None:
        """End it now, whatever is going on."""
        self.over.set()
        self._writer.transport.abort()

    async def receive(self, number: int, nth: int) -> Received:
        """Read one request."""
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        request_line, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
        method, target, _ = request_line.split(" ")
        headers = [
            (name, value.strip()) for name, _, value in (line.partition(":") for line in lines)
        ]
        fields = {name.lower(): value for name, value in headers}
        if "chunked" in fields.get("transfer-encoding", ""):
            body = await self._chunked()
        else:
            body = await self._reader.readexactly(int(fields.get("content-length", 0)))
        return Received(
            method=method, target=target, headers=tuple(headers), body=body,
            connection=number, nth=nth,
        )  # fmt: skip

    async def _chunked(self) -> bytes:
        body = b""
        while size := int(await self._reader.readline(), 16):
            body += await self._reader.readexactly(size)
            await self._reader.readline()
        await self._reader.readuntil(b"\r\n")
        return body

    async def play(self, step: Step) -> None:
        """Do one step of an answer; raises ConnectionError once the connection is over."""
        match step:
            case bytes():
                self._writer.write(step)
                await self._writer.drain()
                self.sent += len(step)
                await asyncio.sleep(0)  # what comes next is another packet
            case Pause():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(step.seconds):
                        await self.over.wait()
            case Act.STALL:
                await self.over.wait()
            case Act.CLOSE:
                self._writer.close()
                await self._writer.wait_closed()
            case Act.RESET:
                # To linger for no time at all is to answer with RST instead of FIN.
                linger = struct.pack("ii", 1, 0)
                self._writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, linger
                )
                self._writer.transport.abort()
                await self.over.wait()
        if self.over.is_set():
            raise ConnectionResetError("the connection is over")
