"""SIGTERM with streams and plain calls under way, by one process and by two workers."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import AsyncExitStack

import pytest

from headrace.testing import Loopback
from headrace.testing.misbehaviour import (
    COMPLETION,
    DONE,
    EVENTS,
    LAST_CHUNK,
    Act,
    Received,
    Step,
    answers,
    chunk,
    event,
    streams,
)

from .serving import Note, Served, Wire, chat, measured, post, serving, wire

CONFIG = """
    server: {workers: WORKERS, shutdown_delay: 500ms, drain: 3s}
    upstreams: {here: {forwarder: {openai: {base_url: "${UPSTREAM}/v1"}}, models: [m, cut]}}
    routes: {m: here, cut: here/cut}
    """
PATH = "/v1/chat/completions"
HALF = (*streams(*EVENTS[:2], done=False)[:-1], Act.STALL)
REST = (*(chunk(event(each)) for each in EVENTS[2:]), chunk(DONE), LAST_CHUNK)
WHOLE = b"".join(step for step in answers(COMPLETION) if isinstance(step, bytes))
STREAMS, PLAIN, CUT = 50, 20, 5
READY = b"GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n"


def half(asked: Received) -> tuple[Step, ...]:
    """The beginning of an answer, which waits."""
    return HALF if json.loads(asked.body).get("stream") else (WHOLE[:-20], Act.STALL)


async def finish(upstream: Loopback) -> None:
    """Send the rest of every answer but those that are to be cut."""
    for asked in upstream.requests:
        body = json.loads(asked.body)
        if body["model"] != "cut":
            for step in REST if body.get("stream") else [WHOLE[-20:]]:
                await upstream.connections[asked.connection].play(step)


async def kept(served: Served, stack: AsyncExitStack) -> list[Wire]:
    """Connections that stay open, to more than one worker where there are several."""
    clients = [await stack.enter_async_context(wire(served.url)) for _ in range(8)]
    assert [await readiness(client) for client in clients] == [200] * 8
    return clients


async def readiness(client: Wire) -> int:
    await client.send(READY)
    head = await client.until(b"\r\n\r\n")
    [size] = re.findall(rb"content-length: (\d+)", head)
    await client.reader.readexactly(int(size))
    return int(head.split()[1])


async def closed(url: str) -> None:
    """Wait until nobody takes connections there any more."""
    async with asyncio.timeout(5):
        while True:
            try:
                async with wire(url):
                    await asyncio.sleep(0.01)
            except ConnectionError:
                return


@pytest.mark.parametrize("workers", [1, 2])
async def test_fifty_streams_and_twenty_plain_calls_end_well_or_are_told_why_they_are_cut(
    upstream: Loopback, workers: int, record_property: Note
) -> None:
    upstream.script(half)
    text = CONFIG.replace("WORKERS", str(workers))

    async with serving(text, UPSTREAM=upstream.url) as served, AsyncExitStack() as stack:
        probes = await kept(served, stack)
        bodies = [chat(stream=True)] * STREAMS + [chat()] * PLAIN
        bodies += [chat(model="cut", stream=True)] * CUT
        clients = [await stack.enter_async_context(wire(served.url)) for _ in bodies]
        for client, body in zip(clients, bodies, strict=True):
            await client.send(post(PATH, body))
        for client in (*clients[:STREAMS], *clients[-CUT:]):
            await client.until(b"Hello")
        await upstream.asked(len(bodies), within=10)

        served.stop()
        with measured(f"{workers} workers, from SIGTERM to the end of the last", record_property):
            async with asyncio.timeout(5):
                for probe in probes:
                    while await readiness(probe) != 503:
                        pass
            await closed(served.url)
            await finish(upstream)
            told = [await client.rest(10) for client in clients]
            # The delay of half a second, three to drain, and one for the rest; then what a busy
            # machine takes.
            assert await served.ended(within=4.5 + 5) == 0

    assert all(each.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n") for each in told[:STREAMS])
    assert all(each.endswith(WHOLE[-20:]) for each in told[STREAMS:-CUT])
    for each in told[-CUT:]:
        assert b'"code":"shutting_down"' in each
        assert b"[DONE]" not in each
        assert each.endswith(b"0\r\n\r\n")
    rows = [(row["outcome"], row.get("code")) for row in served.rows]
    assert sorted(rows, key=str) == [("incomplete", "shutting_down")] * CUT + [("ok", None)] * (
        STREAMS + PLAIN
    )
