"""A request's head has ten seconds to arrive, byte by byte or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from headrace.cli.protocols import HEAD_TIMEOUT, BoundedH11, bounded
from headrace.testing import Clock, settled

PROTOCOLS = pytest.mark.parametrize("protocol", [BoundedH11, bounded()])
REQUEST = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def app(scope: object, receive: object, send: uvicorn._types.ASGISendCallable) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


@asynccontextmanager
async def connected(protocol: type[asyncio.Protocol], served: Any = app) -> AsyncIterator[Streams]:
    config = uvicorn.Config(served, lifespan="off", log_config=None)
    config.load()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: protocol(config=config, server_state=ServerState(), app_state={}),  # type: ignore[call-arg]
        "127.0.0.1",
        0,
    )
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    try:
        yield reader, writer
    finally:
        writer.close()
        server.close()


async def closed(reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(1):
            return await reader.read() == b""
    except ConnectionError:
        return True


@PROTOCOLS
async def test_who_sends_no_head_is_cut_off(protocol: type[asyncio.Protocol], clock: Clock) -> None:
    async with connected(protocol) as (reader, _):
        await settled()
        clock.advance(HEAD_TIMEOUT + 0.1)

        assert await closed(reader)


@PROTOCOLS
async def test_bytes_that_drip_do_not_prolong_the_wait(
    protocol: type[asyncio.Protocol], clock: Clock
) -> None:
    async with connected(protocol) as (reader, writer):
        for byte in REQUEST[:8]:
            writer.write(bytes([byte]))
            await settled()
            clock.advance(HEAD_TIMEOUT / 6)

        assert await closed(reader)


@PROTOCOLS
async def test_a_second_head_has_its_own_time(
    protocol: type[asyncio.Protocol], clock: Clock
) -> None:
    async with connected(protocol) as (reader, writer):
        writer.write(REQUEST)
        await reader.readuntil(b"\r\n\r\n")
        clock.advance(HEAD_TIMEOUT / 2)
        writer.write(REQUEST[:-2])
        await settled()
        clock.advance(HEAD_TIMEOUT + 0.1)

        assert await closed(reader)


@PROTOCOLS
async def test_who_asks_in_time_is_answered_again_and_again(
    protocol: type[asyncio.Protocol], clock: Clock
) -> None:
    async with connected(protocol) as (reader, writer):
        for _ in range(3):
            writer.write(REQUEST)
            assert b"204" in await reader.readuntil(b"\r\n\r\n")
            clock.advance(4)
            await settled()


async def test_a_head_without_end_is_refused_in_words() -> None:
    async with connected(bounded()) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n")
        for _ in range(7):
            writer.write(b"".join(b"x-%d: %b\r\n" % (n, b"a" * 1000) for n in range(10)))
            await settled()

        async with asyncio.timeout(1):
            answer = await reader.read()

    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b'"code":"headers_too_large"' in answer


async def test_trailers_are_never_taken_for_headers() -> None:
    seen: list[object] = []

    async def keeping(scope: dict[str, object], receive: object, send: object) -> None:
        seen.append(scope["headers"])
        await app(scope, receive, send)  # type: ignore[arg-type]

    async with connected(bounded(), keeping) as (reader, writer):
        writer.write(
            b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
            b"1\r\nx\r\n0\r\nauthorization: Bearer k\r\n\r\n"
        )
        await reader.readuntil(b"\r\n\r\n")

    assert b"authorization" not in dict(seen[0])  # type: ignore[call-overload]


async def test_a_client_that_leaves_with_calls_in_line_is_gone_for_all_of_them() -> None:
    told = asyncio.Event()

    async def waiting(scope: object, receive: object, send: object) -> None:
        while (await receive())["type"] != "http.disconnect":  # type: ignore[operator]
            pass
        told.set()

    async with connected(bounded(), waiting) as (_, writer):
        writer.write(REQUEST + REQUEST)
        await settled()
        writer.close()

        async with asyncio.timeout(1):
            await told.wait()
