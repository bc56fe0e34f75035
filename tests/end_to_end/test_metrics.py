"""`metrics` as Prometheus meets it: one page for all workers, and closed to the world."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from headrace.cli.workers import _counts

from .serving import Served, chat, eventually, post, running, serving, wire

CONFIG = """
    server: {workers: 2, drain: 5s, observers: [access_log, metrics]}
    upstreams: {a: mock}
    routes: {m: a}
    """
COUNTED = 'headrace_requests_total{caller="none",operation="chat",outcome="ok",route="m"'


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving(CONFIG) as served:
        await eventually(lambda: counting(served) == {*workers(served)}, within=20)
        yield served


def workers(served: Served) -> list[int]:
    """The processes that the first one has started."""
    children = Path(f"/proc/{served.process.pid}/task/{served.process.pid}/children")
    return sorted(map(int, children.read_text().split()))


def folder_of(pid: int) -> Path:
    """Where a worker puts what it counts."""
    environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    [found] = [each for each in environ if each.startswith(b"PROMETHEUS_MULTIPROC_DIR=")]
    return Path(found.decode().partition("=")[2])


def counting(served: Served) -> set[int]:
    """The workers that have begun to count."""
    files = folder_of(workers(served)[0]).glob("worker_*.json")
    return {int(file.stem.rpartition("_")[2]) for file in files}


async def ask(served: Served, times: int) -> None:
    """So many chats, each on a connection of its own."""
    for _ in range(times):
        async with httpx2.AsyncClient(timeout=20) as client:
            answer = await client.post(f"{served.url}/v1/chat/completions", json=chat())
            assert answer.status_code == 200


async def counted(served: Served) -> int:
    """How many chats any one worker tells."""
    async with httpx2.AsyncClient(timeout=20) as client:
        text = (await client.get(f"{served.url}/metrics")).text
    lines = [line for line in text.splitlines() if line.startswith(COUNTED)]
    return sum(int(float(line.rpartition(" ")[2])) for line in lines)


async def until_counted(served: Served, calls: int) -> None:
    """A record is closed after the last byte of its answer, so it is counted a moment later."""
    async with asyncio.timeout(5):
        while await counted(served) != calls:
            await asyncio.sleep(0.01)


async def test_any_worker_tells_what_all_of_them_have_counted(served: Served) -> None:
    one, other = workers(served)

    for stopped, calls in ((one, 3), (other, 4)):
        os.kill(stopped, signal.SIGSTOP)
        try:
            await ask(served, calls)
            await until_counted(served, 3 if stopped == one else 7)
        finally:
            os.kill(stopped, signal.SIGCONT)

    assert {await counted(served) for _ in range(10)} == {7}


async def test_what_a_worker_has_counted_outlives_it(served: Served) -> None:
    await ask(served, 6)
    await until_counted(served, 6)

    for gone in workers(served):
        os.kill(gone, signal.SIGKILL)
        async with asyncio.timeout(5):
            while gone in workers(served) or len(workers(served)) < 2:
                await asyncio.sleep(0.01)

    await ask(served, 1)
    await until_counted(served, 7)


async def test_files_do_not_grow_in_number_as_workers_are_replaced(served: Served) -> None:
    folder = folder_of(workers(served)[0])
    for calls in range(1, 6):
        await ask(served, 1)
        await until_counted(served, calls)
        gone = workers(served)[0]
        os.kill(gone, signal.SIGKILL)
        await eventually(lambda gone=gone: replaced(served, gone), within=20)  # type: ignore[misc]

    await until_counted(served, 5)
    names = sorted(file.name for file in folder.glob("counter_*.db"))
    assert names[-1] == "counter_ended.db"
    assert len(names) <= 4  # those that live, those that have ended, and the one that ended last


def replaced(served: Served, gone: int) -> bool:
    """Whether another worker counts in the place of one that has ended."""
    now = workers(served)
    return gone not in now and len(now) == 2 and {*now} <= counting(served)


STREAMS = CONFIG.replace("mock", "{forwarder: {mock: {pace: 30s}}}")


async def test_calls_in_flight_are_those_of_all_workers_that_live() -> None:
    async with serving(STREAMS) as served:
        await eventually(lambda: counting(served) == {*workers(served)}, within=20)
        one, other = workers(served)
        async with wires(served, 3, without=one), wires(served, 2, without=other):
            await until_gauge(served, "headrace_calls_in_flight", 5)
            os.kill(one, signal.SIGKILL)
            await until_gauge(served, "headrace_calls_in_flight", 3)
        await until_gauge(served, "headrace_calls_in_flight", 0)


@asynccontextmanager
async def wires(served: Served, count: int, *, without: int) -> AsyncIterator[None]:
    """So many streams that do not end, none of them with one of the workers."""
    os.kill(without, signal.SIGSTOP)
    try:
        opened = [await opening(served) for _ in range(count)]
    finally:
        os.kill(without, signal.SIGCONT)
    try:
        yield
    finally:
        for each in opened:
            await each.aclose()


async def opening(served: Served) -> AsyncExitStack:
    """A stream that has begun to be asked for."""
    stack = AsyncExitStack()
    connection = await stack.enter_async_context(wire(served.url))
    before = await gauge(served, "headrace_calls_in_flight")
    await connection.send(post("/v1/chat/completions", chat(stream=True)))
    async with asyncio.timeout(10):
        while await gauge(served, "headrace_calls_in_flight") <= before:
            await asyncio.sleep(0.05)
    return stack


async def gauge(served: Served, name: str) -> float:
    """What a worker says of a gauge, added up."""
    async with httpx2.AsyncClient(timeout=20) as client:
        text = (await client.get(f"{served.url}/metrics")).text
    lines = [line for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


async def until_gauge(served: Served, name: str, value: float) -> None:
    """A worker says each second what is so; all of them must say this then, one after the other."""
    async with asyncio.timeout(15):
        while {await gauge(served, name) for _ in range(6)} != {value}:
            await asyncio.sleep(0.1)


async def test_of_a_configuration_that_was_no_series_is_left(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(CONFIG)
    command = [sys.executable, "-m", "headrace", "serve", str(file), "--port", "0"]
    async with running(command, {}) as served:
        await eventually(lambda: counting(served) == {*workers(served)}, within=20)
        await ask(served, 2)
        before = await hashes(served)
        file.write_text(CONFIG.replace("routes: {m: a}", "routes: {m: a, n: a}"))
        served.process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(20):
            while {len(before | await hashes(served)) for _ in range(6)} != {2}:
                await asyncio.sleep(0.1)

        await until_gauge(served, "headrace_config_info", 1)
        assert before != await hashes(served)
        await until_gauge(served, "headrace_reloads_total", 2)
        await until_counted(served, 2)


async def hashes(served: Served) -> set[str]:
    """The configurations that a worker tells."""
    async with httpx2.AsyncClient(timeout=20) as client:
        text = (await client.get(f"{served.url}/metrics")).text
    return {line for line in text.splitlines() if line.startswith("headrace_config_info{")}


async def test_what_a_dead_worker_was_doing_is_forgotten(served: Served) -> None:
    gone, alive = workers(served)
    folder = folder_of(gone)
    for pid in (gone, alive):
        (folder / f"gauge_livesum_{pid}.db").touch()

    os.kill(gone, signal.SIGKILL)

    await eventually(lambda: not (folder / f"gauge_livesum_{gone}.db").exists())
    assert (folder / f"gauge_livesum_{alive}.db").exists()
    (folder / f"gauge_livesum_{alive}.db").unlink()


async def test_nothing_is_left_when_the_workers_have_ended() -> None:
    async with serving(CONFIG) as served:
        await ask(served, 1)
        await until_counted(served, 1)
        folders = {folder_of(pid) for pid in workers(served)}
        [folder] = folders
        assert list(folder.glob("counter_*.db"))

    assert not folder.exists()


async def test_a_folder_of_ones_own_is_used_and_stays(tmp_path: Path) -> None:
    async with serving(CONFIG, PROMETHEUS_MULTIPROC_DIR=str(tmp_path)) as served:
        await ask(served, 2)
        await until_counted(served, 2)

    assert list(tmp_path.glob("counter_*.db"))


async def test_one_worker_needs_no_folder() -> None:
    async with serving(CONFIG, "--workers", "1") as served:
        await ask(served, 2)
        await until_counted(served, 2)
        with pytest.raises(ValueError, match="not enough values"):
            folder_of(served.process.pid)


def test_where_no_folder_can_be_made_that_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))

    with _counts() as folder:
        assert folder is None

    assert "workers count each for itself" in caplog.text
    assert "set TMPDIR" in caplog.text
