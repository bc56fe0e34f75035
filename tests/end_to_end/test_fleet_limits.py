"""One limit for a fleet: four gateways and a store, with more asked than is allowed."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import aiohttp
import pytest

from ..stores.servers import VALKEY, Server, running
from .serving import Note, Served, chat, serving

RATE, BURST, GATEWAYS = 40, 60, 4
LATE = GATEWAYS
"""Calls whose gateway may have had no processor for so long that it counted by itself."""
CONFIG = f"""
    server:
      auth: none
      store: ${{STORE}}
      observers: []
      chain:
        - rate_limit:
            replicas: {GATEWAYS}
            policies: [{{name: fleet, by: [], requests: {RATE}/s, burst: {BURST}}}]
    upstreams: {{a: mock}}
    routes: {{m: a}}
    """


@pytest.fixture(scope="module")
def started() -> Iterator[Server]:
    with running(VALKEY) as server:
        yield server


@pytest.fixture
def valkey(started: Server) -> Server:
    """A store in which nothing was counted yet."""
    started.tell("FLUSHALL")
    started.tell("SCRIPT", "FLUSH")
    return started


@pytest.fixture(scope="module")
async def gateways(started: Server) -> AsyncIterator[list[Served]]:
    """Those that share the store."""
    async with AsyncExitStack() as stack:
        each = [serving(CONFIG, STORE=started.url) for _ in range(GATEWAYS)]
        yield list(await asyncio.gather(*map(stack.enter_async_context, each)))


class Load:
    """Clients that ask one gateway after the other, as fast as a pause between calls lets them."""

    def __init__(self, gateways: list[Served]) -> None:
        self.statuses: Counter[int] = Counter()
        self.slowest = 0.0
        self.allowed = 0.0
        """What the limit lets in meanwhile, and one percent."""
        self._gateways = gateways

    @property
    def admitted(self) -> int:
        return self.statuses[200]

    async def run(self, seconds: float, *, clients: int = 8, pause: float = 0.01) -> None:
        """Ask for so long: some ten times what is allowed."""
        began = time.monotonic()
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10)) as session:
            urls = [each.url for each in self._gateways]
            each = (self._ask(session, urls[n % len(urls)], seconds, pause) for n in range(clients))
            await asyncio.gather(*each)
        self.allowed = (BURST + RATE * (time.monotonic() - began)) * 1.01

    async def _ask(
        self, session: aiohttp.ClientSession, url: str, seconds: float, pause: float
    ) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            sent = time.monotonic()
            async with session.post(f"{url}/v1/chat/completions", json=chat()) as response:
                self.statuses[response.status] += 1
                await response.read()
            self.slowest = max(self.slowest, time.monotonic() - sent)
            await asyncio.sleep(pause)


async def test_four_gateways_let_in_no_more_than_the_limit(
    valkey: Server, gateways: list[Served], record_property: Note
) -> None:
    load = Load(gateways)
    await load.run(4)

    told = f"{load.admitted} of {sum(load.statuses.values())}, allowed {load.allowed:.0f}"
    record_property("let in by four gateways", told)
    assert set(load.statuses) == {200, 429}
    assert load.admitted <= load.allowed + LATE
    assert load.admitted >= 0.9 * (BURST + RATE * 3.5)
    assert sum(load.statuses.values()) > 3 * load.admitted


async def test_a_gateway_that_was_paused_gets_nothing_on_top(
    valkey: Server, gateways: list[Served]
) -> None:
    load = Load(gateways)
    asking = asyncio.create_task(load.run(4))
    await asyncio.sleep(1)
    gateways[0].process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(2)
    gateways[0].process.send_signal(signal.SIGCONT)
    await asking

    assert set(load.statuses) == {200, 429}
    assert load.admitted <= load.allowed + LATE


async def test_a_store_that_starts_anew_costs_two_bursts_at_most(
    valkey: Server, gateways: list[Served]
) -> None:
    load = Load(gateways)
    asking = asyncio.create_task(load.run(5))
    await asyncio.sleep(1)
    valkey.kill()
    await asyncio.sleep(1.5)
    valkey.start()
    await asking

    assert set(load.statuses) == {200, 429}
    # Their own shares while it was away, a full bucket when it was back, and who was under way.
    assert load.admitted <= load.allowed + 2 * BURST + 8
    assert load.admitted >= RATE * 4


async def test_a_store_that_says_nothing_holds_nobody_up(
    valkey: Server, gateways: list[Served], record_property: Note
) -> None:
    valkey.pause()
    await Load(gateways).run(1)
    silent = Load(gateways)
    await silent.run(2)
    valkey.resume()

    for gateway in gateways:
        await said(gateway, "does not answer")
    record_property("slowest call, the store silent", f"{silent.slowest * 1000:.1f} ms")
    assert set(silent.statuses) == {200, 429}
    assert silent.admitted <= silent.allowed


async def said(gateway: Served, words: str) -> None:
    """Wait until its log has these words."""
    await gateway.until(lambda: any(words in line for line in gateway.said))
