"""`balance` before two real servers, one of which is slow or fails: the calls that reach them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from headrace.testing import Loopback
from headrace.testing.misbehaviour import COMPLETION, EVENTS, Behaviour, Pause, answers, streams

from .serving import Served, chat, post, serving, wire

CONFIG = """
    upstreams:
      a: {forwarder: {openai: {base_url: "${A}/v1"}}, models: [m]}
      b: {forwarder: {openai: {base_url: "${B}/v1"}}, models: [m]}
    routes:
      latency: {chain: [balance: latency, fallback], targets: [a/m, b/m]}
      failing: {chain: [balance: latency, fallback], targets: [a/m, b/m]}
      load: {chain: [balance: in_flight], targets: [a/m: {weight: 3}, b/m]}
      sticky: {chain: [balance: {sticky: {header: x-session}}, fallback], targets: [a/m, b/m]}
    """
PLAIN, STREAMED = answers(COMPLETION), streams(*EVENTS)
SLOW: Behaviour = (Pause(0.4), *PLAIN)
SLOW_STREAM: Behaviour = (Pause(0.4), *STREAMED)


@pytest.fixture(scope="module")
async def others() -> AsyncIterator[Loopback]:
    async with Loopback() as server:
        yield server


@pytest.fixture(scope="module")
async def gateway(server: Loopback, others: Loopback) -> AsyncIterator[Served]:
    async with serving(CONFIG, A=server.url, B=others.url) as served:
        yield served


@pytest.fixture
def b(others: Loopback) -> Loopback:
    """The second upstream, that was asked nothing yet."""
    others.requests.clear()
    return others


async def ask(gateway: Served, model: str, *headers: str, stream: bool = False) -> bytes:
    async with wire(gateway.url) as client:
        await client.send(post("/v1/chat/completions", chat(model=model, stream=stream), *headers))
        told = await client.rest()
    assert told.startswith(b"HTTP/1.1 200"), told
    return told


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streams"])
async def test_most_calls_reach_the_quick_one(
    gateway: Served, upstream: Loopback, b: Loopback, stream: bool
) -> None:
    upstream.script(STREAMED if stream else PLAIN)
    b.script(SLOW_STREAM if stream else SLOW)

    for _ in range(60):
        await ask(gateway, "latency", stream=stream)

    assert len(upstream.requests) + len(b.requests) == 60
    assert 1 <= len(b.requests) <= 15


async def test_no_call_fails_while_one_of_two_does(
    gateway: Served, upstream: Loopback, b: Loopback
) -> None:
    upstream.script(PLAIN)
    b.script("close")

    for _ in range(30):
        await ask(gateway, "failing")

    assert len(upstream.requests) == 30
    assert 1 <= len(b.requests) <= 5


async def test_calls_at_once_are_spread_by_weight(
    gateway: Served, upstream: Loopback, b: Loopback
) -> None:
    upstream.script(SLOW)
    b.script(SLOW)

    await asyncio.gather(*(ask(gateway, "load") for _ in range(12)))

    assert len(upstream.requests) + len(b.requests) == 12
    assert 6 <= len(upstream.requests) <= 11


async def test_clients_that_leave_free_the_target_they_have_held(
    gateway: Served, upstream: Loopback, b: Loopback
) -> None:
    upstream.script("stall-midstream")
    b.script("stall-midstream")
    for nth in range(1, 9):
        async with wire(gateway.url) as client:
            await client.send(post("/v1/chat/completions", chat(model="load", stream=True)))
            await client.until(b"Hello")
        await gateway.until(lambda nth=nth: _left(gateway) == nth)  # type: ignore[misc]

    assert len(upstream.requests) == 8  # three times the weight, and never more than one at once


def _left(gateway: Served) -> int:
    return sum(row["outcome"] == "client_closed" for row in gateway.rows)


async def test_sessions_are_spread_and_each_stays(
    gateway: Served, upstream: Loopback, b: Loopback
) -> None:
    upstream.script(PLAIN)
    b.script(PLAIN)

    for session in range(10):
        for _ in range(3):
            await ask(gateway, "sticky", f"x-session: {session}")

    assert len(upstream.requests) % 3 == len(b.requests) % 3 == 0
    assert upstream.requests
    assert b.requests
