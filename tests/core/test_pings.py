"""Streams that have nothing to say for a while are kept open by comments."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from headrace import Call, Event, Record, Reply
from headrace.sending import Pings, Sending
from headrace.testing import (
    Client,
    Clock,
    Upstream,
    chunk,
    gateway,
    refuses,
    says,
    settled,
)

PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"
Act = Callable[[Upstream, Call], Awaitable[Reply]]


@pytest.fixture(autouse=True)
def turned(clock: Clock) -> None:
    clock.jumps = True


def after(seconds: float, act: Act) -> Act:
    """The same, but it takes its time."""

    async def acts(upstream: Upstream, call: Call) -> Reply:
        await asyncio.sleep(seconds)
        return await act(upstream, call)

    return acts


def pausing(*parts: bytes | float, framing: Any = "sse") -> Act:
    """A stream of these parts; a number is a pause."""

    async def act(upstream: Upstream, call: Call) -> Reply:
        async def events() -> AsyncIterator[Event]:
            for part in parts:
                if isinstance(part, bytes):
                    yield Event(part, part.removeprefix(b"data: ").strip())
                else:
                    await asyncio.sleep(part)

        return Reply(events(), framing=framing, headers={"content-type": "text/event-stream"})

    return act


WORD = Event.saying(chunk(content="hello"), "sse").raw
STOP = Event.saying(chunk(finish="stop"), "sse").raw


@asynccontextmanager
async def serving(act: Act, options: str = "") -> AsyncIterator[tuple[Client, list[Record]]]:
    upstream = Upstream()
    upstream.script(act)
    records: list[Record] = []
    made = gateway(
        f"""
        server: {{auth: none{options}}}
        upstreams: {{a: mock}}
        routes: {{m: a, "/v1/responses": a}}
        """,
        upstream=upstream,
    )
    made.edge.observers = (records.append,)
    async with made.lifespan():
        yield Client(made), records


async def test_a_stream_that_pauses_is_kept_open() -> None:
    async with serving(pausing(WORD, 50.0, STOP, DONE)) as (client, _):
        response = await client.chat(stream=True)

        assert [part async for part in response.chunks()] == [WORD, *[PING] * 3, STOP, DONE]


async def test_one_that_goes_on_is_left_alone() -> None:
    async with serving(pausing(*(WORD, 14.0) * 9, STOP, DONE)) as (client, _):
        response = await client.chat(stream=True)

        assert await response.read() == WORD * 9 + STOP + DONE


async def test_how_often_is_for_the_operator_to_say() -> None:
    async with serving(pausing(WORD, 9.0, STOP, DONE), ", pings: 2s") as (client, _):
        assert (await (await client.chat(stream=True)).read()).count(PING) == 4
    async with serving(pausing(WORD, 50.0, STOP, DONE), ", pings: null") as (client, _):
        assert PING not in await (await client.chat(stream=True)).read()


@pytest.mark.parametrize(
    ("parts", "pings"),
    [
        pytest.param([b"event: a\ndata: 1\n\n", 50.0, b"data: 2\n\n"], 3, id="between events"),
        pytest.param([b"event: a\r\ndata: 1\r\n\r\n", 50.0, b"data: 2\n\n"], 3, id="other lines"),
        pytest.param([b"event: a\ndata: 1\n", b"\n", 50.0, b"data: 2\n\n"], 3, id="in pieces"),
        pytest.param([b"event: a\ndata: 1\n", 50.0, b"\ndata: 2\n\n"], 0, id="in an event"),
    ],
)
async def test_what_is_passed_through_is_interrupted_by_none(
    parts: Sequence[bytes | float], pings: int
) -> None:
    async with serving(pausing(*parts, framing="raw")) as (client, _):
        response = await client.post("/v1/responses", json={"stream": True})
        body = await response.read()

    assert body.count(PING) == pings
    assert body.replace(PING, b"") == b"".join(part for part in parts if isinstance(part, bytes))


async def test_no_other_body_gets_one() -> None:
    async with serving(after(50, says("hello"))) as (client, _):
        response = await client.chat()

        assert (await response.json())["choices"][0]["message"]["content"] == "hello"


async def test_until_there_is_output_nothing_is_sent_so_that_its_status_is_true() -> None:
    async with serving(after(50, refuses(429))) as (client, _):
        response = await client.chat(stream=True)

        assert response.status == 429


# Beginning early


EARLY = ", pings: 15s, early_pings: 20s"


async def test_a_stream_may_begin_before_its_output(clock: Clock) -> None:
    async with serving(after(53, pausing(WORD, STOP, DONE)), EARLY) as (client, records):
        began = clock.now
        response = await client.chat(stream=True)
        assert clock.now - began == pytest.approx(20, abs=0.1)

        assert [part async for part in response.chunks()] == [*[PING] * 3, WORD, STOP, DONE]

    assert (response.status, response.headers["cache-control"]) == (200, "no-cache")
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["x-headrace-attempts"] == "1"
    assert records[0].outcome == "ok"


async def test_what_fails_then_is_told_in_the_stream() -> None:
    async with serving(after(50, refuses(429)), EARLY) as (client, records):
        response = await client.chat(stream=True)
        body = await response.read()

    assert response.status == 200
    assert body.startswith(PING)
    assert b'data: {"error":{"message":"scripted"' in body
    assert DONE not in body
    assert (records[0].outcome, records[0].code) == ("failed", "upstream_429")


async def test_what_fails_before_keeps_its_status() -> None:
    async with serving(after(10, refuses(429)), EARLY) as (client, _):
        assert (await client.chat(stream=True)).status == 429


async def test_an_answer_that_is_no_stream_is_waited_for() -> None:
    async with serving(after(50, refuses(429)), EARLY) as (client, _):
        assert (await client.chat()).status == 429
        assert (await client.post("/v1/responses", json={"stream": True})).status == 429


async def test_who_leaves_such_a_stream_ends_its_call(clock: Clock) -> None:
    async with serving(after(500, says("hello")), EARLY) as (client, records):
        response = await client.chat(stream=True)
        clock.jumps = False
        await response.leave()
        await settled()

    assert records[0].outcome == "client_closed"


async def test_a_ping_that_is_cut_off_keeps_back_no_last_word() -> None:
    """As it is where a client reads nothing while the gateway stops."""
    sent: list[bytes] = []

    async def send(message: Any) -> None:
        if message.get("body") == PING:
            await asyncio.Event().wait()
        sent.append(message.get("body", b""))

    record = Record(id="req_test", method="POST", path="/v1/chat/completions")
    out = Sending(send, record, stall=600, pings=Pings(every=15), give_up=lambda: None)
    await out.start(200, {"content-type": "text/event-stream"})
    await asyncio.sleep(16)
    writing = asyncio.create_task(out.write(b"a word"))
    await settled()
    writing.cancel()
    await asyncio.wait((writing,))

    await out.finish(b"an error")

    assert sent == [b"", b"an error"]
    await out.aclose()
