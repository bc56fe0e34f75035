"""The gateway as a service of systemd: it says when it is ready, reloads, lives and stops."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import httpx2
import pytest

from .serving import Served, eventually, running

TEXT = "server: {workers: WORKERS}\nupstreams: {a: mock}\nroutes: {m: a}\n"


class Manager:
    """What a service manager was told."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "notify")
        self.told: list[str] = []

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as listener:
            listener.bind(self.address)
            listener.setblocking(False)
            reading = asyncio.create_task(self._read(listener))
            try:
                yield
            finally:
                reading.cancel()
                await asyncio.wait([reading])

    async def _read(self, listener: socket.socket) -> None:
        while True:
            message = await asyncio.get_running_loop().sock_recv(listener, 1024)
            self.told.append(message.decode().partition("\n")[0])

    async def until(self, *told: str) -> None:
        """Wait until just this was told, but for signs of life."""
        await eventually(lambda: self.states == list(told), within=15)

    @property
    def states(self) -> list[str]:
        return [each for each in self.told if each != "WATCHDOG=1"]


@asynccontextmanager
async def serviced(
    folder: Path, workers: int | str, **environ: str
) -> AsyncIterator[tuple[Served, Manager]]:
    file, manager = folder / "gateway.yaml", Manager(folder)
    file.write_text(TEXT.replace("WORKERS", str(workers)))
    command = [sys.executable, "-m", "headrace", "serve", str(file), "--port", "0"]
    async with (
        manager.listening(),
        running(command, {"NOTIFY_SOCKET": manager.address, **environ}) as served,
    ):
        yield served, manager


@pytest.mark.parametrize("workers", [1, 2])
async def test_it_says_when_it_is_ready_reloads_and_stops(tmp_path: Path, workers: int) -> None:
    async with serviced(tmp_path, workers) as (served, manager):
        await manager.until("READY=1")
        async with httpx2.AsyncClient() as http:
            assert (await http.get(f"{served.url}/readyz")).status_code == 200

        served.process.send_signal(signal.SIGHUP)
        await manager.until("READY=1", "RELOADING=1", "READY=1")
        served.stop()
        await manager.until("READY=1", "RELOADING=1", "READY=1", "STOPPING=1")
        assert await served.ended() == 0

    assert manager.told == manager.states


@pytest.mark.parametrize("workers", [1, 2])
async def test_one_that_stops_is_not_ready_again_whatever_it_is_asked(
    tmp_path: Path, workers: int
) -> None:
    more = f"{workers}, shutdown_delay: 1s"
    async with serviced(tmp_path, more) as (served, manager):
        await manager.until("READY=1")
        served.stop()
        await manager.until("READY=1", "STOPPING=1")
        served.process.send_signal(signal.SIGHUP)

        assert await served.ended() == 0

    assert manager.states == ["READY=1", "STOPPING=1"]
    assert not [line for line in served.said if "the configuration is" in line]


@pytest.mark.parametrize("workers", [1, 2])
async def test_it_gives_signs_of_life_as_often_as_is_wanted(tmp_path: Path, workers: int) -> None:
    async with serviced(tmp_path, workers, WATCHDOG_USEC="200000") as (_, manager):
        await eventually(lambda: manager.told.count("WATCHDOG=1") >= 5)


async def test_a_reload_that_is_refused_is_over_all_the_same(tmp_path: Path) -> None:
    async with serviced(tmp_path, 1) as (served, manager):
        await manager.until("READY=1")
        (tmp_path / "gateway.yaml").write_text("upstreams: {a: mook}\n")
        served.process.send_signal(signal.SIGHUP)

        await manager.until("READY=1", "RELOADING=1", "READY=1")
        await served.until(lambda: any("gateway.yaml:1:16: " in line for line in served.said))


async def test_a_worker_that_is_stuck_is_replaced_where_there_is_a_watchdog(
    tmp_path: Path,
) -> None:
    async with serviced(tmp_path, 2, WATCHDOG_USEC="2000000") as (served, manager):
        await manager.until("READY=1")
        children = Path(f"/proc/{served.process.pid}/task/{served.process.pid}/children")
        stuck, well = map(int, children.read_text().split())

        os.kill(stuck, signal.SIGSTOP)
        await served.until(lambda: any(f"worker {stuck} is stuck" in line for line in served.said))
        await eventually(lambda: len(children.read_text().split()) == 2)

        assert str(well) in children.read_text().split()
