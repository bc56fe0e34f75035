"""The gateway as people run it: the real command in a process, or an application under uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import textwrap
import threading
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp

Row = dict[str, Any]
Note = Callable[[str, object], None]

_LIVE = " is live at "
_UVICORN = "Uvicorn running on "
_KEPT = ("PATH", "HOME", "TMPDIR", "XDG_CACHE_HOME", "PYTHONPATH")
_BUGS = ("Traceback (most recent call last)", "was never retrieved", "was destroyed", "Unclosed")


@dataclass
class Served:
    """A gateway in a process of its own, and what it has printed so far."""

    process: Process
    url: str = ""
    said: list[str] = field(default_factory=list)
    """Lines of standard error, for people."""
    rows: list[Row] = field(default_factory=list)
    """The access log, from standard output."""
    stopping: bool = False
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def until(self, true: Callable[[], bool], within: float = 5) -> None:
        """Wait for something that it prints; raises TimeoutError."""
        async with asyncio.timeout(within):
            while not true():
                await self.news.wait()

    async def row(self, request_id: str | None, within: float = 5) -> Row:
        """The line of the access log for one request."""
        await self.until(lambda: any(row["id"] == request_id for row in self.rows), within)
        (row,) = (row for row in self.rows if row["id"] == request_id)
        return row

    async def ended(self, within: float = 10) -> int:
        """Its exit status, when it and its last words are there."""
        async with asyncio.timeout(within):
            return await self.process.wait()

    def stop(self) -> None:
        """Ask it to stop, as an orchestrator does."""
        self.stopping = True
        self.process.send_signal(signal.SIGTERM)


@asynccontextmanager
async def serving(text: str, *arguments: str, **environ: str) -> AsyncIterator[Served]:
    """`headrace serve` with this YAML and environment; it must end well when it is told to."""
    with _file(text) as file:
        command = [*_HEADRACE, "serve", str(file), "--port", "0", *arguments]
        async with running(command, environ) as served:
            yield served


_HEADRACE = (sys.executable, "-m", "headrace")


@asynccontextmanager
async def running(command: Sequence[str], environ: Mapping[str, str]) -> AsyncIterator[Served]:
    """A server's process, live until it is told to stop; it must do so at once and with 0."""
    async with printing(command, environ) as served:
        await served.until(lambda: bool(served.url) or served.process.returncode is not None, 20)
        assert served.url, "\n".join(served.said)
        yield served
        if not served.stopping:
            served.stop()
        assert await served.ended() == 0
    assert not [line for line in served.said if any(bug in line for bug in _BUGS)], served.said
    ids = [row["id"] for row in served.rows]
    assert len(ids) == len(set(ids)), "a request has two rows"


@asynccontextmanager
async def printing(command: Sequence[str], environ: Mapping[str, str]) -> AsyncIterator[Served]:
    """A process whose output is read as it comes; it does not outlive the test."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        *command, stdout=PIPE, stderr=PIPE, env={**kept, **environ}, limit=2**20
    )
    served = Served(process)
    reading = [asyncio.create_task(read(served)) for read in (_people, _programs)]
    try:
        yield served
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await asyncio.wait(reading)


async def _people(served: Served) -> None:
    assert served.process.stderr
    async for raw in served.process.stderr:
        line = raw.decode().rstrip()
        served.said.append(line)
        for sign in (_LIVE, _UVICORN):
            if not served.url and sign in line:
                served.url = line.partition(sign)[2].split()[0]
        _tell(served)
    _tell(served)


async def _programs(served: Served) -> None:
    assert served.process.stdout
    async for raw in served.process.stdout:
        served.rows.append(json.loads(raw))
        _tell(served)


def _tell(served: Served) -> None:
    served.news.set()
    served.news = asyncio.Event()


@contextmanager
def _file(text: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "gateway.yaml")
        file.write_text(textwrap.dedent(text))
        yield file


@asynccontextmanager
async def in_thread(app: ASGIApp) -> AsyncIterator[str]:
    """The URL of an application under uvicorn, in a thread with a loop of its own."""
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, log_config=None, access_log=False, timeout_graceful_shutdown=5)
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        await eventually(lambda: server.started or not thread.is_alive())
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await asyncio.to_thread(thread.join)


async def eventually(true: Callable[[], bool], within: float = 5) -> None:
    """Wait for what tells nobody when it comes; raises TimeoutError."""
    async with asyncio.timeout(within):
        while not true():
            await asyncio.sleep(0.005)


def sockets(served: Served) -> int:
    """How many sockets a process has open."""
    files = Path(f"/proc/{served.process.pid}/fd").iterdir()
    return sum("socket:" in os.readlink(file) for file in files)


@contextmanager
def measured(name: str, note: Note) -> Iterator[None]:
    """Note how many milliseconds this took; it is told at the end of the run."""
    began = time.perf_counter()
    yield
    note(name, f"{(time.perf_counter() - began) * 1000:.1f} ms")


class Wire:
    """A client that is only a socket: it sends what it is told and leaves how it is told."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Send bytes."""
        self.writer.write(data)
        await self.writer.drain()

    async def until(self, part: bytes, within: float = 5) -> bytes:
        """What comes, up to `part`."""
        async with asyncio.timeout(within):
            return await self.reader.readuntil(part)

    async def rest(self, within: float = 5) -> bytes:
        """Everything up to the end of the connection."""
        async with asyncio.timeout(within):
            return await self.reader.read()

    def stop_reading(self) -> None:
        """Take nothing more from the socket, so that the other side has to wait."""
        transport = self.writer.transport
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()

    async def leave(self) -> None:
        """Close the connection."""
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


@asynccontextmanager
async def wire(url: str) -> AsyncIterator[Wire]:
    """A connection to a server."""
    host, _, port = url.removeprefix("http://").partition(":")
    opened = Wire(*await asyncio.open_connection(host, int(port)))
    try:
        yield opened
    finally:
        await opened.leave()


def post(path: str, body: Any, *headers: str) -> bytes:
    """A whole request as it goes over the wire; the connection ends after its answer."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [
        f"POST {path} HTTP/1.1", "host: localhost", "content-type: application/json",
        f"content-length: {len(data)}", "connection: close", *headers,
    ]  # fmt: skip
    return "\r\n".join([*lines, "", ""]).encode() + data


def chat(*, model: str = "m", **members: Any) -> dict[str, Any]:
    """The body of a chat."""
    return {"model": model, "messages": [{"role": "user", "content": "hi"}], **members}
