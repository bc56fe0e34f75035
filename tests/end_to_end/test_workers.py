"""Several workers on one port: all serve, a dead one is replaced, and they stop together."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx2
import pytest

from headrace.testing import Loopback
from headrace.testing.misbehaviour import DONE, EVENTS, LAST_CHUNK, chunk, event, streams

from .serving import Served, chat, eventually, post, printing, serving, wire

CONFIG = """
    server: {workers: 2, drain: 5s}
    upstreams: {a: mock}
    routes: {m: a}
    """


FORWARDING = """
    server: {workers: 2, drain: 5s}
    upstreams: {a: {forwarder: {openai: {base_url: "${UPSTREAM}/v1"}}, models: [m]}}
    routes: {m: a}
    """
HALF = streams(*EVENTS[:2], done=False)[:-1]
REST = (*(chunk(event(each)) for each in EVENTS[2:]), chunk(DONE), LAST_CHUNK)
SERVE = (sys.executable, "-m", "headrace", "serve", "--port", "0")


def workers(served: Served) -> set[int]:
    """The processes that the first one has started."""
    children = Path(f"/proc/{served.process.pid}/task/{served.process.pid}/children")
    return set(map(int, children.read_text().split()))


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving(CONFIG) as served:
        yield served


async def answers(served: Served, times: int = 20) -> list[int]:
    """The statuses of as many calls, each on a connection of its own."""
    found = []
    for _ in range(times):
        async with httpx2.AsyncClient() as client:
            found.append((await client.get(f"{served.url}/v1/models")).status_code)
    return found


async def test_as_many_processes_as_are_written_serve_one_port(served: Served) -> None:
    assert len(workers(served)) == 2
    assert sum("is live at" in line for line in served.said) == 1
    await served.until(lambda: any("2 workers" in line for line in served.said))
    assert set(await answers(served)) == {200}


async def test_a_worker_that_is_killed_is_replaced_while_the_others_serve(served: Served) -> None:
    before = workers(served)
    (gone, *_) = before

    os.kill(gone, signal.SIGKILL)
    await eventually(lambda: gone not in workers(served) and len(workers(served)) == 2)

    assert set(await answers(served)) == {200}
    assert sum(f"worker {gone} ended with status -9" in line for line in served.said) == 1


async def test_streams_of_all_workers_finish_after_a_signal_to_stop(upstream: Loopback) -> None:
    upstream.script(HALF)
    async with serving(FORWARDING, UPSTREAM=upstream.url) as served, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(wire(served.url)) for _ in range(6)]
        for client in clients:
            await client.send(post("/v1/chat/completions", chat(stream=True)))
            await client.until(b"data:")

        served.stop()
        for asked in upstream.requests:
            for step in REST:
                await upstream.connections[asked.connection].play(step)

        for client in clients:
            assert await client.until(b"[DONE]")


async def test_workers_do_not_outlive_the_one_that_started_them(tmp_path: Path) -> None:
    async with printing([*SERVE, "--workers", "2", str(file(tmp_path))], {}) as served:
        await served.until(lambda: bool(served.url), 20)
        left = workers(served)

        served.process.kill()

        await eventually(lambda: not any(map(alive, left)), within=10)


async def test_workers_that_cannot_start_are_not_started_for_ever(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif '--worker' in sys.orig_argv: os._exit(7)\n"
    )
    environ = {"PYTHONPATH": str(tmp_path)}
    async with printing([*SERVE, "--workers", "2", str(file(tmp_path))], environ) as served:
        assert await served.ended(20) == 7

    assert any("giving up" in line for line in served.said)


async def test_what_each_worker_would_count_for_itself_is_a_problem(tmp_path: Path) -> None:
    counting = file(tmp_path, "server: {chain: [rate_limit]}\n")
    for environ, told in (({"WEB_CONCURRENCY": "3"}, "3 workers"), ({}, "2 workers")):
        arguments = [] if environ else ["--workers", "2"]
        async with printing([*SERVE, *arguments, str(counting)], environ) as served:
            assert await served.ended() == 1
        assert any(f"each of {told} would count for itself" in line for line in served.said)


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def file(folder: Path, more: str = "") -> Path:
    """A small configuration."""
    file = folder / "gateway.yaml"
    file.write_text(f"{more}upstreams: {{a: mock}}\nroutes: {{m: a}}\n")
    return file
