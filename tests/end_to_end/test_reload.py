"""The configuration is changed again and again under load, and no call notices."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import signal
import statistics
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from headrace.testing import Loopback
from headrace.testing.misbehaviour import COMPLETION, answers

from .serving import Note, Served, eventually, running

SECONDS = float(os.environ.get("RELOAD_SECONDS", "3"))
"""How long the load goes on; 30 for the full measure."""
RATE = 200
"""Calls in a second."""
EVERY = 0.1
"""Seconds between two configurations."""

CONFIG = """
    server:
      drain: 5s
      workers: {workers}
      store: {store}
      chain:
        - rate_limit:
            per_worker: true
            policies: [{{by: address, requests: {limit}/second}}]
    upstreams:
      a: {{forwarder: mock, plugins: [breaker: {{failures: {failures}}}]}}
      b:
        forwarder: {{openai: {{base_url: "{upstream}/v1", api_key: "{key}"}}}}
        models: [m]
        plugins: [breaker]
    routes:
      m: {{targets: [{targets}], chain: [fallback, hedge: {{after: {after}s}}]}}
"""
BROKEN = [
    "upstreams: {a: mock\n",
    "upstreams: {a: no-such-forwarder}\nroutes: {m: a}\n",
    "upstreams: {a: {forwarder: {mock: {sayz: x}}}}\nroutes: {m: a}\n",
    "upstreams: {a: {forwarder: {mock: {says: '${NOT_SET_ANYWHERE}'}}}}\nroutes: {m: a}\n",
]


def versions(upstream: str, workers: int) -> Iterator[str]:
    """One configuration after the other; each fifth is broken."""
    for number in itertools.count(1):
        if number % 5 == 0:
            yield BROKEN[number // 5 % len(BROKEN)]
            continue
        yield textwrap.dedent(CONFIG).format(
            workers=workers,
            store="memory://",
            limit=100_000 + number,
            failures=5 + number % 3,
            upstream=upstream,
            key=f"key-{number}",
            targets=("a, b", "b, a", "b/m, a")[number % 3],
            after=5 + number % 7,
        )


class Load:
    """Calls at a steady rate, plain and streamed by turns."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.ended: Counter[str] = Counter()
        self.times: list[float] = []

    async def run(self, seconds: float) -> None:
        connector = aiohttp.TCPConnector(limit=100)
        async with aiohttp.ClientSession(connector=connector) as session:
            began = time.monotonic()
            async with asyncio.TaskGroup() as calls:
                for number in range(int(seconds * RATE)):
                    await asyncio.sleep(max(0.0, began + number / RATE - time.monotonic()))
                    calls.create_task(self.ask(session, stream=number % 2 == 0))

    async def ask(self, session: aiohttp.ClientSession, *, stream: bool) -> None:
        body = {"model": "m", "stream": stream, "messages": [{"role": "user", "content": "hi"}]}
        began = time.monotonic()
        try:
            async with session.post(f"{self.url}/v1/chat/completions", json=body) as answer:
                text = await answer.text()
                whole = "[DONE]" in text if stream else '"choices"' in text
                self.ended[f"{answer.status}" if whole else f"{answer.status} cut: {text}"] += 1
        except aiohttp.ClientError as error:
            self.ended[repr(error)] += 1
        self.times.append(time.monotonic() - began)


def files(served: Served) -> int:
    """How many files and sockets the first process has open."""
    return len(list(Path(f"/proc/{served.process.pid}/fd").iterdir()))


@pytest.mark.parametrize("workers", [1, 2])
async def test_not_one_call_fails_while_the_configuration_changes(
    workers: int, server: Loopback, tmp_path: Path, record_property: Note
) -> None:
    server.script(answers(COMPLETION))
    texts = versions(server.url, workers)
    file, next_file = tmp_path / "gateway.yaml", tmp_path / "next"
    file.write_text(next(texts))
    command = [sys.executable, "-m", "headrace", "serve", str(file), "--port", "0"]
    async with running(command, {"LOG_LEVEL": "info"}) as served:
        gc.freeze()  # or collecting all that a test run has holds the clients up
        await Load(served.url).run(0.5)
        calm = Load(served.url)
        await calm.run(min(2.0, SECONDS))
        before = files(served)
        load = Load(served.url)
        under_load = asyncio.create_task(load.run(SECONDS))
        changes = 0
        while not under_load.done():
            next_file.write_text(next(texts))
            next_file.replace(file)
            served.process.send_signal(signal.SIGHUP)
            changes += 1
            await asyncio.sleep(EVERY)
        await under_load
        told = [line for line in served.said if "is in force" in line]
        kept = [line for line in served.said if "stays as it was" in line]
        gc.unfreeze()
        # Connections to the upstream stay open for a while, as many as calls came at a time.
        await eventually(lambda: files(served) <= before + len(told) // 2)

    assert load.ended == {"200": int(SECONDS * RATE)}
    assert len(told) >= 5
    assert kept
    for name, times in (("calm", calm.times), ("changing", load.times)):
        p99 = statistics.quantiles(times, n=100)[98] * 1000
        record_property(f"{workers} workers, {name}, p99 of {len(times)} calls", f"{p99:.1f} ms")
    record_property(f"{workers} workers, configurations written, taken", f"{changes}, {len(told)}")
