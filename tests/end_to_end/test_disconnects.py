"""A client that leaves is noticed at once, wherever its call is, and its upstream is let go.

Both transports, on real sockets: aiohttp in the real command, httpx2 in the same application under
uvicorn. The goal is 200 ms; the limit asserted is a second, for machines that are busy.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest

from headrace import Gateway, Record
from headrace.config.build import build
from headrace.config.document import parse
from headrace.testing import Loopback
from headrace.testing.misbehaviour import (
    COMPLETION,
    EVENTS,
    STREAM,
    Act,
    Behaviour,
    Step,
    answers,
    chunk,
    event,
    head,
    status,
    streams,
)
from headrace.transport.httpx2 import Httpx2

from .serving import Note, Row, Wire, chat, eventually, in_thread, measured, post, serving, wire

CONFIG = """
    server: {auth: none}
    upstreams:
      here: {forwarder: {openai: {base_url: "${UPSTREAM}/v1"}}}
      spare: {forwarder: {openai: {base_url: "${UPSTREAM}/v1"}}}
      patient:
        forwarder: {openai: {base_url: "${UPSTREAM}/v1"}}
        plugins: [retry: {attempts: 3, wait: 5s}]
      slow: {forwarder: {openai: {base_url: "${SLOW}/v1"}}}
      ollama: {forwarder: {ollama: {base_url: "${UPSTREAM}"}}}
    routes:
      m: here
      patient: patient
      slow: slow
      safe: {chain: [fallback], targets: [here, spare]}
      llama: ollama
      /v1/files*: here
    """
LIMIT = 1.0
PATH = "/v1/chat/completions"
HALF: tuple[Step, ...] = (STREAM, *(chunk(event(each)) for each in EVENTS[:2]), Act.STALL)
BUSY = status(503, {"error": {"message": "busy"}}, "retry-after: 5")


@dataclass
class Door:
    """A gateway on a socket, through one of the transports."""

    name: str
    url: str
    rows: list[Row]

    async def row(self, request_id: str) -> Row:
        """What was recorded of one request."""
        await eventually(lambda: any(row["id"] == request_id for row in self.rows))
        (row,) = (row for row in self.rows if row["id"] == request_id)
        return row


@pytest.fixture(scope="module", params=["aiohttp", "httpx2"])
async def door(
    request: pytest.FixtureRequest, server: Loopback, slow_port: socket.socket
) -> AsyncIterator[Door]:
    slow = f"http://127.0.0.1:{slow_port.getsockname()[1]}"
    environ = {"UPSTREAM": server.url, "SLOW": slow}
    if request.param == "aiohttp":
        async with serving(CONFIG, **environ) as served:
            await served.until(lambda: any("aiohttp" in line for line in served.said))
            yield Door(request.param, served.url, served.rows)
    else:
        async with through_httpx2(environ) as door:
            yield door


@asynccontextmanager
async def through_httpx2(environ: Mapping[str, str]) -> AsyncIterator[Door]:
    document = parse(CONFIG, "gateway.yaml", environ)
    rows: list[Row] = []

    def note(record: Record) -> None:
        told = {"outcome": record.outcome, "status": record.status, "code": record.code}
        tokens = {"output": record.usage.output} if record.usage else None
        rows.append({"id": record.id, **told, "tokens": tokens})

    plan = replace(build(document, through=Httpx2()), observers=(note,))
    async with in_thread(Gateway(plan)) as url:
        yield Door("httpx2", url, rows)


@pytest.fixture
async def client(door: Door, upstream: Loopback) -> AsyncIterator[Wire]:
    async with wire(door.url) as client:
        yield client


def ask(request_id: str, **members: Any) -> bytes:
    return post(PATH, chat(**members), f"x-request-id: {request_id}")


@pytest.mark.parametrize("how", ["closes", "resets", "shuts"])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_before_the_first_byte(
    door: Door, upstream: Loopback, client: Wire, stream: bool, how: str, record_property: Note
) -> None:
    upstream.script("never")
    name = f"first-{how}-{stream}"
    await client.send(ask(name, stream=stream))
    await upstream.asked()

    with measured(f"{door.name}: {name}", record_property):
        await leave(client, how)
        await upstream.closed(upstream.requests[0].connection, within=LIMIT)

    row = await door.row(name)
    assert (row["outcome"], row["status"]) == ("client_closed", 499)
    assert len(upstream.requests) == 1


async def leave(client: Wire, how: str) -> None:
    """In order, by a reset, or by saying that nothing more will be sent."""
    if how == "shuts":
        client.writer.write_eof()
        return
    if how == "resets":
        opened: socket.socket = client.writer.get_extra_info("socket")
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.writer.transport.abort()
        return
    await client.leave()


@pytest.mark.parametrize(
    ("name", "stream", "said"),
    [
        ("held", True, (STREAM, chunk(event(EVENTS[0])), Act.STALL)),
        ("half-a-head", False, (b"HTTP/1.1 200 OK\r\ncontent-", Act.STALL)),
        ("half-a-body", False, (head(200, "content-length: 99") + b"{", Act.STALL)),
        ("half-an-error", False, (head(500, "content-length: 99") + b"{", Act.STALL)),
        ("half-an-event", True, (*HALF[:-1], chunk(b"data: {"), Act.STALL)),
    ],
)
async def test_when_the_upstream_has_begun(
    door: Door,
    upstream: Loopback,
    client: Wire,
    name: str,
    stream: bool,
    said: Behaviour,
    record_property: Note,
) -> None:
    upstream.script(said)
    await client.send(ask(name, stream=stream))
    await upstream.asked()

    with measured(f"{door.name}: {name}", record_property):
        await client.leave()
        await upstream.closed(upstream.requests[0].connection, within=LIMIT)

    assert (await door.row(name))["outcome"] == "client_closed"


@pytest.mark.parametrize("how", ["closes", "resets", "shuts"])
async def test_in_the_middle_of_a_stream(
    door: Door, upstream: Loopback, client: Wire, how: str, record_property: Note
) -> None:
    upstream.script(HALF)
    name = f"middle-{how}"
    await client.send(ask(name, stream=True))
    await client.until(b"Hello")

    with measured(f"{door.name}: {name}", record_property):
        await leave(client, how)
        await upstream.closed(upstream.requests[0].connection, within=LIMIT)

    row = await door.row(name)
    assert (row["outcome"], row["status"]) == ("client_closed", 200)
    assert row["tokens"]["output"] == 2  # five letters, estimated


async def test_in_the_middle_of_a_stream_that_does_not_stop(
    door: Door, upstream: Loopback, client: Wire, record_property: Note
) -> None:
    def talks(_: Any) -> Any:
        yield STREAM
        while True:
            yield chunk(event(EVENTS[1]))

    upstream.script(talks)
    await client.send(ask("talks", stream=True))
    await client.until(b"Hello")

    with measured(f"{door.name}: in a stream that does not stop", record_property):
        await client.leave()
        await upstream.closed(upstream.requests[0].connection, within=LIMIT)


async def test_in_the_middle_of_a_translated_stream(
    door: Door, upstream: Loopback, client: Wire, record_property: Note
) -> None:
    line = {"model": "m", "message": {"role": "assistant", "content": "The"}, "done": False}
    ndjson = head(200, "content-type: application/x-ndjson", "transfer-encoding: chunked")
    upstream.script((ndjson, chunk(json.dumps(line).encode() + b"\n"), Act.STALL))
    await client.send(ask("translated", model="llama", stream=True))
    await client.until(b"The")

    with measured(f"{door.name}: in a translated stream", record_property):
        await client.leave()
        await upstream.closed(upstream.requests[0].connection, within=LIMIT)


async def test_while_what_nobody_reads_is_passed_through(
    door: Door, upstream: Loopback, client: Wire, record_property: Note
) -> None:
    upstream.script((head(200, "content-length: 99") + b"half", Act.STALL))
    await client.send(post("/v1/files", b"{}", "x-request-id: passed"))
    await client.until(b"half")

    with measured(f"{door.name}: passed through", record_property):
        await client.leave()
        await upstream.closed(upstream.requests[0].connection, within=LIMIT)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_during_a_wait_between_two_attempts(
    door: Door, upstream: Loopback, client: Wire, stream: bool, record_property: Note
) -> None:
    upstream.script(BUSY, answers(COMPLETION))
    name = f"wait-{stream}"
    await client.send(ask(name, model="patient", stream=stream))
    await upstream.asked()

    with measured(f"{door.name}: {name}", record_property):
        await client.leave()
        row = await door.row(name)

    assert (row["outcome"], row["status"]) == ("client_closed", 499)
    assert len(upstream.requests) == 1


async def test_while_the_second_target_is_asked(
    door: Door, upstream: Loopback, client: Wire, record_property: Note
) -> None:
    upstream.script(BUSY, "never")
    await client.send(ask("second", model="safe"))
    await upstream.asked(2)

    with measured(f"{door.name}: while the second target is asked", record_property):
        await client.leave()
        await upstream.closed(upstream.requests[1].connection, within=LIMIT)

    assert (await door.row("second"))["outcome"] == "client_closed"
    assert len(upstream.requests) == 2


async def test_while_it_sends_its_own_request(
    door: Door, upstream: Loopback, client: Wire, record_property: Note
) -> None:
    await client.send(ask("sending")[:-20])

    with measured(f"{door.name}: while it sends its request", record_property):
        await client.leave()
        row = await door.row("sending")

    assert (row["outcome"], row["status"]) == ("client_closed", 499)
    assert upstream.requests == []


async def test_while_its_request_is_sent_on(
    door: Door, slow: Slow, client: Wire, record_property: Note
) -> None:
    """The upstream takes the connection and a little of a long request, then nothing."""
    await client.send(ask("sent-on", model="slow", padding="a" * 25_000_000))
    await slow.began.wait()

    with measured(f"{door.name}: while its request is sent on", record_property):
        await client.leave()
        row = await door.row("sent-on")

    assert (row["outcome"], row["status"]) == ("client_closed", 499)
    assert 0 < await slow.rest() < 25_000_000


class Slow:
    """A server that reads the beginning of a request, and the rest when it is told to."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self._on = asyncio.Event()
        self._got: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got = len(await reader.read(1000))
        self.began.set()
        await self._on.wait()
        with contextlib.suppress(ConnectionError):
            while more := await reader.read(2**20):
                got += len(more)
        self._got.set_result(got)
        writer.close()

    async def rest(self) -> int:
        """How many bytes came in all, when no more come."""
        self._on.set()
        return await asyncio.wait_for(self._got, LIMIT)


@pytest.fixture
async def slow(slow_port: socket.socket) -> AsyncIterator[Slow]:
    slow = Slow()
    async with await asyncio.start_server(slow, sock=slow_port.dup()):
        yield slow


@pytest.fixture(scope="module")
def slow_port() -> Iterator[socket.socket]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        yield listener


async def test_many_at_once(door: Door, upstream: Loopback, record_property: Note) -> None:
    upstream.script(HALF)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(wire(door.url)) for _ in range(50)]
        for number, client in enumerate(clients):
            await client.send(ask(f"many-{number}", stream=True))
        for client in clients:
            await client.until(b"Hello")

        with measured(f"{door.name}: fifty streams at once", record_property):
            for client in clients:
                client.writer.close()
            for asked in upstream.requests:
                await upstream.closed(asked.connection, within=LIMIT)

    for number in range(50):
        assert (await door.row(f"many-{number}"))["outcome"] == "client_closed"


async def test_the_connection_is_used_again_by_who_stays(door: Door, upstream: Loopback) -> None:
    upstream.script(streams(*EVENTS))

    for number in range(3):
        async with wire(door.url) as client:
            await client.send(ask(f"stays-{number}", stream=True))
            assert (await client.rest()).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")

    assert len({asked.connection for asked in upstream.requests}) == 1
