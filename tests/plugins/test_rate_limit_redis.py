"""`rate_limit` on real servers: several processes, one that sleeps, a server that goes away."""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from headrace import Duration, RateLimited, Secret, Store
from headrace.store.redis import Redis
from headrace.testing import Upstream, ask, call, says, stalls, text
from headrace_plugins.rate_limit import RateLimit

from ..stores.servers import REDIS, VALKEY, Server, running
from .rate_limit.gates import let_in, policy
from .rate_limit.worker import BURST, RATE, SLOTS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=[VALKEY, REDIS], ids=["valkey", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with running(request.param) as server:
        yield server


@pytest.fixture
async def store(server: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Redis]:
    """One that may take its time, on a machine that has other things to do."""
    monkeypatch.setattr("headrace_plugins.rate_limit.budget.PATIENCE", 5)
    store = Redis(url=Secret(server.url), prefix=uuid4().hex, timeout=Duration(5))
    async with store:
        yield store


def limiting(store: Store, *policies: dict[str, Any], **options: Any) -> RateLimit:
    return RateLimit(store=store, policies=[policy(**each) for each in policies], **options)


async def test_all_who_share_a_server_share_its_limits(store: Store) -> None:
    one, other = (limiting(store, {"by": [], "requests": "5/day"}) for _ in range(2))

    found = [await let_in(each, call()) for _ in range(4) for each in (one, other)]

    assert found == [True] * 5 + [False] * 3


async def test_nothing_is_left_of_calls_that_are_over(store: Redis, server: Server) -> None:
    plugin = limiting(
        store,
        {"name": "all", "by": [], "tokens": ["1M/100d", "2M/200d"], "concurrent": 2},
        {"name": "door", "by": "address", "requests": "9/day"},
    )
    upstream = Upstream()
    upstream.script(stalls("hel"), says("hello", usage=(100, 50)))
    async with plugin:
        given = [call(stream=True, max_tokens=500_000), call()]
        stream = await ask(plugin, upstream=upstream, call=given[0])
        with pytest.raises(RateLimited, match="of 1,000,000 tokens"):
            await ask(plugin, upstream=upstream, call=call(max_tokens=600_000))
        second = await ask(plugin, upstream=upstream, call=given[1])
        with pytest.raises(RateLimited, match="2 calls at the same time"):
            await ask(plugin, upstream=upstream, call=call())
        await text(second)
        await stream.aclose()

    kept = {name: numbers for name, numbers in numbers_in(server) if store.prefix in name}
    [everybody] = [numbers for name, numbers in kept.items() if "all:" in name]
    [door] = [numbers for name, numbers in kept.items() if "door:" in name]
    spent = sum(each.record.limits[0].settled for each in given)
    assert len(kept) == 2
    assert everybody.keys() == {"at", "tokens8640000", "tokens17280000"}
    assert 150 < spent == pytest.approx(1_000_000 - everybody["tokens8640000"], abs=0.1)
    assert 150 < spent == pytest.approx(2_000_000 - everybody["tokens17280000"], abs=0.1)
    assert door["requests86400"] == pytest.approx(7, abs=0.01)


def numbers_in(server: Server) -> Iterator[tuple[str, dict[str, float]]]:
    """All numbers that a server keeps for steps, by their key."""
    for key in server.tell("KEYS", "*"):
        if server.tell("TYPE", key) == b"hash":
            found = server.tell("HGETALL", key)
            yield key.decode(), {name.decode(): float(number) for name, number in found.items()}


@pytest.mark.parametrize("strategy", ["fixed_window", "moving_window", "sliding_window"])
async def test_windows_are_counted_there_too(store: Store, strategy: str) -> None:
    limit = {"by": [], "requests": "3/day", "strategy": strategy}
    async with limiting(store, limit) as one, limiting(store, limit) as other:
        found = [await let_in(each, call()) for _ in range(3) for each in (one, other)]

    assert found == [True] * 3 + [False] * 3


async def test_another_strategy_does_not_stumble_over_the_last_ones_keys(store: Store) -> None:
    for strategy in ("fixed_window", "moving_window", "sliding_window", "token_bucket"):
        limit = {"by": [], "requests": "2/day", "strategy": strategy}
        async with limiting(store, limit, on_store_error="closed") as plugin:
            assert [await let_in(plugin, call()) for _ in range(3)] == [True, True, False]


# Several processes


@pytest.fixture
async def workers(server: Server) -> AsyncIterator[list[Process]]:
    """Four of them, ready to begin."""
    prefix = uuid4().hex
    words = ("-m", "tests.plugins.rate_limit.worker", server.url, prefix, "4")
    workers = [
        await asyncio.create_subprocess_exec(
            sys.executable, *words, cwd=ROOT, stdin=PIPE, stdout=PIPE
        )
        for _ in range(4)
    ]
    try:
        for worker in workers:
            assert await _line(worker) == "ready"
        yield workers
    finally:
        for worker in workers:
            if worker.returncode is None:
                worker.send_signal(signal.SIGCONT)
                worker.kill()
            await worker.wait()


async def _line(worker: Process) -> str:
    assert worker.stdout
    async with asyncio.timeout(60):
        return (await worker.stdout.readline()).decode().strip()


@pytest.mark.slow
async def test_limits_hold_for_all_processes_while_one_of_them_sleeps(
    workers: Sequence[Process],
) -> None:
    for worker in workers:
        assert worker.stdin
        worker.stdin.write(b"go\n")
    await asyncio.sleep(1)
    workers[0].send_signal(signal.SIGSTOP)
    await asyncio.sleep(2)
    workers[0].send_signal(signal.SIGCONT)
    async with asyncio.timeout(60):
        printed = [await worker.communicate() for worker in workers]

    lines = [line.split()[2:] for told, _ in printed for line in told.decode().splitlines()]
    calls = sorted((float(asked), float(began), float(ended)) for asked, began, ended in lines)
    assert {worker.returncode for worker in workers} == {0}
    assert len(calls) > RATE, "hardly anybody was let in, so this shows nothing"
    for start in [asked for asked, _, _ in calls][::15]:
        for end in sorted(began for _, began, _ in calls)[::15]:
            let_in = sum(start <= asked and began <= end for asked, began, _ in calls)
            assert let_in <= (BURST + RATE * max(0, end - start)) * 1.01
    running = [(began, 1) for _, began, _ in calls] + [(ended, -1) for *_, ended in calls]
    together = 0
    for _, change in sorted(running):
        together += change
        assert together <= SLOTS


# A server that goes away


async def test_calls_go_on_while_the_server_is_gone_and_it_counts_again_when_it_is_back(
    server: Server,
) -> None:
    store = Redis(url=Secret(server.url), prefix=uuid4().hex)
    plugin = limiting(store, {"by": [], "concurrent": 50, "tokens": "1M/100d"})
    upstream = Upstream()

    async def local() -> bool:
        """Whether a call is counted in this process alone."""
        given = call()
        await text(await ask(plugin, upstream=upstream, call=given))
        return given.record.limits[0].local

    async def running() -> float:
        """How many calls the server knows of."""
        found = [numbers for name, numbers in numbers_in(server) if store.prefix in name]
        return sum(n for each in found for name, n in each.items() if name[:5] == "calls")

    async with store, plugin:
        await _until(local, False)
        upstream.script(stalls("hel"), says("hello"))
        stream = await ask(plugin, upstream=upstream, call=call(stream=True))
        assert await running() == 1
        server.pause()
        try:
            await _until(local, True)
            await stream.aclose()
        finally:
            server.resume()
        await _until(local, False)
        await _until(running, 0)


async def _until(found: Callable[[], Awaitable[object]], wanted: object) -> None:
    """Wait until something is found as it is wanted; raises TimeoutError."""
    async with asyncio.timeout(30):
        while await found() != wanted:
            await asyncio.sleep(0.02)
