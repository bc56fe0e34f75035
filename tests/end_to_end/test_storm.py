"""Every fault at once, and clients that leave whenever they like: nothing stays behind."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import pytest

from headrace.testing import Loopback
from headrace.testing.misbehaviour import (
    COMPLETION,
    EVENTS,
    STIMULI,
    Act,
    Behaviour,
    Received,
    Steps,
    answers,
    cut,
    status,
    streams,
)

from .serving import Served, chat, eventually, post, serving, sockets, wire

CONFIG = """
    server:
      max_event: 1MB
      timeouts: {connect: 500ms, first_event: 400ms, idle: 300ms, total: 800ms}
    upstreams:
      here:
        forwarder: {openai: {base_url: "${UPSTREAM}/v1"}}
        models: [m]
        plugins: [retry: {attempts: 2, wait: 20ms}]
      there: {forwarder: {openai: {base_url: "${UPSTREAM}/v1"}}, models: [m]}
    routes: {m: {chain: [fallback], targets: [here, there]}}
    """
GOOD: tuple[Behaviour, ...] = (
    answers(COMPLETION),
    streams(*EVENTS),
    cut(5, streams(*EVENTS)),
    status(429, {"error": {"message": "slow down"}}, "retry-after-ms: 30"),
    (*streams(*EVENTS[:2])[:-2], Act.STALL),
)
# These are megabytes each, which is another test's business.
LARGE = {"gzip-bomb"}
FAULTS = (*GOOD * 4, *(each for name, each in STIMULI.items() if name not in LARGE))
CALLS = 400
AT_ONCE = 40


@pytest.fixture(scope="module")
async def gateway(server: Loopback) -> AsyncIterator[Served]:
    async with serving(CONFIG, UPSTREAM=server.url) as served:
        yield served


async def test_a_storm_leaves_nothing_behind(gateway: Served, upstream: Loopback) -> None:
    dice = random.Random(7)

    def anything(received: Received) -> Steps:
        behaviour = dice.choice(FAULTS)
        return behaviour(received) if callable(behaviour) else behaviour

    upstream.script(anything)
    idle = sockets(gateway)
    turns = asyncio.Semaphore(AT_ONCE)

    async def call(number: int) -> None:
        async with turns, wire(gateway.url) as client:
            body = chat(stream=dice.random() < 0.5)
            await client.send(post("/v1/chat/completions", body, f"x-request-id: storm-{number}"))
            leaves = dice.random() < 0.4
            patience = dice.random() * 0.2 if leaves else 10
            with contextlib.suppress(TimeoutError):
                told = await client.rest(within=patience)
                assert told.startswith((b"HTTP/1.1 200", b"HTTP/1.1 429", b"HTTP/1.1 50"))
                assert not told.startswith(b"HTTP/1.1 500")
                assert not leaves or told

    await asyncio.gather(*map(call, range(CALLS)))

    await gateway.until(lambda: len(gateway.rows) == CALLS)
    assert {row["id"] for row in gateway.rows} == {f"storm-{number}" for number in range(CALLS)}
    assert not [row for row in gateway.rows if row["status"] == 500 or not row.get("outcome")]
    # What is left are connections to the upstream that are kept; the upstream knows them too.
    await eventually(lambda: sockets(gateway) <= idle + upstream.open)
