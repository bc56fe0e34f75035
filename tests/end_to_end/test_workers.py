"""Several workers on one port: all serve, a dead one is replaced, and they stop together."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import signal
import sys
import textwrap
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from headrace.testing import Loopback
from headrace.testing.misbehaviour import (
    DONE,
    EVENTS,
    LAST_CHUNK,
    Act,
    chunk,
    delta,
    event,
    streams,
)

from .serving import (
    Note,
    Served,
    chat,
    eventually,
    measured,
    post,
    printing,
    running,
    serving,
    wire,
)

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


async def test_a_second_signal_cuts_what_all_workers_do(upstream: Loopback) -> None:
    upstream.script((*HALF, Act.STALL))
    slow = FORWARDING.replace("5s", "60s")
    async with serving(slow, UPSTREAM=upstream.url) as served, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(wire(served.url)) for _ in range(6)]
        for client in clients:
            await client.send(post("/v1/chat/completions", chat(stream=True)))
            await client.until(b"data:")

        served.stop()
        # Until all of them have heard the first: a worker takes two signals at once for one.
        await served.until(lambda: stopping(served) == len(clients), 10)
        served.process.send_signal(signal.SIGTERM)

        assert all([b"shutting_down" in await client.rest() for client in clients])
        assert await served.ended(within=5) == 0


def stopping(served: Served) -> int:
    """How many calls go on, as the workers say that have heard a signal to stop."""
    return sum(map(int, re.findall(r"stopping: (\d+) call", "\n".join(served.said))))


class Load:
    """Clients that ask one call after the other, each on a connection that it keeps."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.stopped = False
        self.statuses: Counter[int] = Counter()

    async def run(self, clients: int) -> list[int]:
        """How many calls of each client found no answer."""
        return await asyncio.gather(*(self._client() for _ in range(clients)))

    async def _client(self) -> int:
        lost = 0
        async with httpx2.AsyncClient(base_url=self.url) as http:
            while not self.stopped:
                try:
                    answer = await http.post("/v1/chat/completions", json=chat())
                    self.statuses[answer.status_code] += 1
                except httpx2.TransportError:
                    lost += 1
        return lost


async def test_a_worker_that_is_killed_under_load_takes_its_own_connections_alone(
    record_property: Note,
) -> None:
    async with serving(CONFIG, LOG_LEVEL="debug") as served:
        await served.until(lambda: said(served, "is ready") == 2)
        load = Load(served.url)
        lost = asyncio.create_task(load.run(8))
        await eventually(lambda: load.statuses.total() > 50, within=10)
        gone, stays = workers(served)

        with measured("a worker that was killed is replaced, and ready", record_property):
            os.kill(gone, signal.SIGKILL)
            await served.until(lambda: said(served, "is ready") == 3)
        before = load.statuses.total()
        await eventually(lambda: load.statuses.total() > before + 200, within=20)
        load.stopped = True

        # What it was busy with is lost, a call of each client at most; all others are answered.
        assert max(await lost) <= 1
        assert set(load.statuses) == {200}
        assert stays in workers(served)


async def test_workers_do_not_outlive_the_one_that_started_them(tmp_path: Path) -> None:
    async with printing([*SERVE, "--workers", "2", str(file(tmp_path))], {}) as served:
        await served.until(lambda: bool(served.url), 20)
        left = workers(served)

        served.process.kill()

        await eventually(lambda: not any(map(alive, left)), within=10)


async def test_streams_that_finish_go_on_when_the_process_is_gone_that_told_to_stop(
    upstream: Loopback, tmp_path: Path
) -> None:
    upstream.script((*HALF, Act.STALL))
    file = tmp_path / "gateway.yaml"
    file.write_text(textwrap.dedent(FORWARDING.replace("5s", "60s")))
    async with (
        printing([*SERVE, str(file)], {"UPSTREAM": upstream.url}) as served,
        AsyncExitStack() as stack,
    ):
        await served.until(lambda: bool(served.url), 20)
        client = await stack.enter_async_context(wire(served.url))
        await client.send(post("/v1/chat/completions", chat(stream=True)))
        await client.until(b"data:")
        served.stop()
        await served.until(lambda: stopping(served) == 1, 10)

        served.process.kill()
        await served.until(lambda: said(served, "that started this one is gone") > 0, 10)
        for step in REST:
            await upstream.connections[upstream.requests[0].connection].play(step)

        assert await client.until(b"[DONE]")


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


# Other configurations


def write(file: Path, model: str, server: str = "workers: 2") -> None:
    """A configuration that is known by the model it has, put in place at once."""
    text = f"server: {{{server}}}\nupstreams: {{a: mock}}\nroutes: {{{model}: a}}\n"
    file.with_suffix(".new").write_text(text)
    file.with_suffix(".new").replace(file)


@asynccontextmanager
async def changing(folder: Path, server: str = "workers: 2") -> AsyncIterator[tuple[Served, Path]]:
    """A gateway whose file is to be changed."""
    file = folder / "gateway.yaml"
    write(file, "one", server)
    async with running([*SERVE, str(file)], {"LOG_LEVEL": "debug"}) as served:
        await served.until(lambda: any("curl" in line for line in served.said))
        await eventually(lambda: len(workers(served)) == 2)
        yield served, file


async def models(served: Served) -> set[str]:
    """The models that are listed, by whichever worker is asked."""
    found = set()
    for _ in range(20):
        async with httpx2.AsyncClient() as client:
            listed = (await client.get(f"{served.url}/v1/models")).json()["data"]
            found.add(listed[0]["id"])
    return found


async def until_in_force(served: Served, times: int) -> None:
    await served.until(lambda: said(served, "another configuration is in force") == times, 10)


def said(served: Served, words: str) -> int:
    return sum(words in line for line in served.said)


async def killed(served: Served) -> None:
    """Kill all workers, and wait until others are there."""
    before = workers(served)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    await eventually(lambda: len(workers(served)) == 2 and not before & workers(served))


async def test_sighup_reaches_all_workers(tmp_path: Path) -> None:
    async with changing(tmp_path) as (served, file):
        before = workers(served)
        write(file, "two")
        served.process.send_signal(signal.SIGHUP)
        await until_in_force(served, 2)

        assert await models(served) == {"two"}
        assert workers(served) == before


async def test_a_worker_that_only_starts_is_not_ended_by_sighup(tmp_path: Path) -> None:
    async with changing(tmp_path) as (served, file):
        write(file, "two")
        await killed(served)

        def ask() -> bool:
            served.process.send_signal(signal.SIGHUP)
            return said(served, "another configuration is in force") == 2

        await eventually(ask, within=10)
        assert await models(served) == {"two"}
        assert said(served, "ended with status") == said(served, "ended with status -9") == 2


@pytest.mark.parametrize("told", ["by a signal", "by its files"])
async def test_the_last_good_configuration_outlives_all_workers(tmp_path: Path, told: str) -> None:
    server = "workers: 2" if told == "by a signal" else "workers: 2, watch: 100ms"
    async with changing(tmp_path, server) as (served, file):
        write(file, "two", server)
        if told == "by a signal":
            served.process.send_signal(signal.SIGHUP)
        await until_in_force(served, 2)
        assert await models(served) == {"two"}
        await served.until(lambda: said(served, "workers to come serve what the others do") > 0)
        file.write_text("upstreams: {a: no-such-forwarder}\n")
        served.process.send_signal(signal.SIGHUP)
        await served.until(lambda: said(served, "stays as it was") >= 2, 10)

        await killed(served)

        assert await models(served) == {"two"}


async def test_what_all_workers_tell_is_told_in_full_by_one(tmp_path: Path) -> None:
    async with changing(tmp_path) as (served, file):
        write(file, "two")
        served.process.send_signal(signal.SIGHUP)
        await until_in_force(served, 2)
        await served.until(lambda: said(served, "route two") == 1)
        file.write_text("upstreams: {a: no-such-forwarder}\n")
        served.process.send_signal(signal.SIGHUP)
        await served.until(lambda: said(served, "no forwarder is called") == 2, 10)
        await served.until(lambda: said(served, "  1 | upstreams") == 1)

        assert said(served, "route two") == 1
        for pid in workers(served):
            assert said(served, f" headrace[{pid}]: the configuration stays as it was") == 1


async def test_another_worker_tells_in_full_once_the_one_is_gone_that_did(tmp_path: Path) -> None:
    async with changing(tmp_path) as (served, file):
        await killed(served)
        await served.until(lambda: said(served, "another one is started") == 2)
        write(file, "two")
        served.process.send_signal(signal.SIGHUP)
        await until_in_force(served, 2)

        await served.until(lambda: said(served, "route two") == 1)


async def test_a_new_worker_serves_what_the_others_do_whatever_is_written_by_now(
    tmp_path: Path,
) -> None:
    async with changing(tmp_path) as (served, file):
        write(file, "two")
        await killed(served)

        assert await models(served) == {"one"}


async def test_a_new_worker_waits_for_clients_as_long_as_was_written_at_the_start(
    upstream: Loopback, tmp_path: Path
) -> None:
    upstream.script((*HALF, *[chunk(event(delta(content="a" * 60_000)))] * 1000, Act.STALL))
    text = textwrap.dedent(FORWARDING).replace("drain: 5s", "write_stall: 500ms")
    file = tmp_path / "gateway.yaml"
    file.write_text(text)
    environ = {"UPSTREAM": upstream.url, "LOG_LEVEL": "debug"}
    async with running([*SERVE, str(file)], environ) as served:
        await served.until(lambda: said(served, "is ready") == 2)
        file.write_text(text.replace("500ms", "1h"))
        served.process.send_signal(signal.SIGHUP)
        await served.until(lambda: said(served, "workers to come serve what the others do") > 0)
        await until_in_force(served, 2)
        await killed(served)

        async with wire(served.url) as client:
            client.stop_reading()
            await client.send(post("/v1/chat/completions", chat(stream=True)))
            await upstream.asked(within=10)
            await upstream.closed(upstream.requests[0].connection, within=10)


async def test_a_worker_that_is_told_alone_tells_the_others(tmp_path: Path) -> None:
    key = secrets.token_hex(32)
    server = f"workers: 2, admin: {{key: {key}}}"
    async with changing(tmp_path, server) as (served, file), httpx2.AsyncClient() as http:
        write(file, "two", server)
        headers = {"authorization": f"Bearer {key}"}
        answer = await http.post(f"{served.url}/admin/reload", headers=headers)
        assert answer.json()["changed"] is True
        await until_in_force(served, 2)

        assert await models(served) == {"two"}


async def test_workers_that_cannot_be_replaced_do_not_end_those_that_serve(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        f"if '--worker' in sys.orig_argv and os.path.exists('{tmp_path}/bad'): os._exit(7)\n"
    )
    environ = {"PYTHONPATH": str(tmp_path), "LOG_LEVEL": "debug"}
    async with running([*SERVE, "--workers", "2", str(file(tmp_path))], environ) as served:
        await served.until(lambda: said(served, "is ready") == 2)
        (tmp_path / "bad").touch()
        os.kill(min(workers(served)), signal.SIGKILL)
        await served.until(lambda: said(served, "the next one is tried in 10 s") == 1, 10)

        assert set(await answers(served)) == {200}
        assert said(served, "giving up") == 0


async def test_a_process_that_only_starts_is_not_ended_by_sighup(tmp_path: Path) -> None:
    async with printing([*SERVE, str(file(tmp_path))], {}) as served:
        await eventually(lambda: holds(served.process.pid, signal.SIGHUP))
        served.process.send_signal(signal.SIGHUP)
        await served.until(lambda: said(served, "the configuration is as it was") == 1, 10)

        served.stop()
        assert await served.ended() == 0


def holds(pid: int, number: signal.Signals) -> bool:
    """Whether a signal waits there until somebody handles it."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (blocked,) = (line.split()[1] for line in lines if line.startswith("SigBlk:"))
    return bool(int(blocked, 16) >> (number - 1) & 1)
