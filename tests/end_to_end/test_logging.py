"""Whoever reads the logs slowly, or not at all, keeps no call waiting."""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx2
import pytest

from headrace.cli.output import ErrorOutput

from .serving import chat, eventually, serving, wire

CONFIG = "server: {observers: [access_log, metrics]}\nupstreams: {a: mock}\nroutes: {m: a}"
CALLS = 300
"""Their lines are more than a pipe holds, which is 64 KiB."""


@asynccontextmanager
async def serving_into(output: int, folder: Path) -> AsyncIterator[str]:
    """A gateway whose standard output is that, at its address; it must end well."""
    (folder / "gateway.yaml").write_text(CONFIG)
    command = [sys.executable, "-m", "headrace", "serve", "--port", "0"]
    process = await asyncio.create_subprocess_exec(*command, cwd=folder, stdout=output, stderr=PIPE)
    assert process.stderr
    try:
        async with asyncio.timeout(20):
            while " is live at " not in (line := (await process.stderr.readline()).decode()):
                assert line, "it ended before it was live"
        said = asyncio.create_task(process.stderr.read())
        yield line.split(" is live at ")[1].split()[0]
        process.terminate()
        async with asyncio.timeout(15):
            assert await process.wait() == 0
        assert b"Traceback" not in await said
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def ask(url: str, calls: int) -> None:
    async with httpx2.AsyncClient(timeout=10) as client:
        for _ in range(calls):
            answer = await client.post(f"{url}/v1/chat/completions", json=chat())
            assert answer.status_code == 200


async def test_a_log_that_nobody_reads_keeps_no_call_waiting(tmp_path: Path) -> None:
    ours, theirs = os.pipe()
    try:
        async with serving_into(theirs, tmp_path) as url:
            await ask(url, CALLS)
            reading = asyncio.create_task(asyncio.to_thread(lines, ours, CALLS))
            ids = await reading
    finally:
        os.close(ours)
        os.close(theirs)

    assert len(set(ids)) == CALLS


def lines(handle: int, count: int) -> list[str]:
    """The ids of so many lines of a pipe."""
    text = b""
    while text.count(b"\n") < count:
        text += os.read(handle, 1 << 16)
    return [json.loads(line)["id"] for line in text.splitlines()]


async def test_it_ends_although_nobody_reads_its_log(tmp_path: Path) -> None:
    ours, theirs = os.pipe()
    try:
        async with serving_into(theirs, tmp_path) as url:
            await ask(url, CALLS)
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize("gone", ["/dev/full", "pipe"])
async def test_calls_are_answered_where_no_log_can_be_written(gone: str, tmp_path: Path) -> None:
    if gone == "pipe":
        ours, theirs = os.pipe()
        os.close(ours)
    else:
        theirs = os.open(gone, os.O_WRONLY)
    try:
        async with serving_into(theirs, tmp_path) as url:
            await ask(url, 20)
    finally:
        os.close(theirs)


@asynccontextmanager
async def telling(folder: Path, workers: int) -> AsyncIterator[tuple[Process, str]]:
    """A gateway whose standard error is a pipe that is full, and its address; it must end well."""
    (folder / "gateway.yaml").write_text(CONFIG.replace("{", f"{{workers: {workers}, ", 1))
    command = [sys.executable, "-m", "headrace", "serve", "--port", "0"]
    ours, theirs = os.pipe()
    process = await asyncio.create_subprocess_exec(*command, cwd=folder, stderr=theirs)
    try:
        said = ""
        async with asyncio.timeout(20):
            while "curl" not in said:
                said += (await asyncio.to_thread(os.read, ours, 1 << 16)).decode()
        fill(theirs)
        yield process, said.split(" is live at ")[1].split()[0]
        process.terminate()
        async with asyncio.timeout(15):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(ours)
        os.close(theirs)


def fill(pipe: int) -> None:
    """Write until nothing more goes in; opened anew, so that it still blocks all others."""
    own = os.open(f"/proc/self/fd/{pipe}", os.O_WRONLY | os.O_NONBLOCK)
    with suppress(BlockingIOError):
        while os.write(own, b"x" * 4096):
            pass
    with suppress(BlockingIOError):
        while os.write(own, b"x"):
            pass
    os.close(own)


async def test_messages_that_nobody_reads_keep_no_call_waiting(tmp_path: Path) -> None:
    async with telling(tmp_path, workers=1) as (process, url):
        (tmp_path / "gateway.yaml").write_text("upstreams: {a: mook}")
        process.send_signal(signal.SIGHUP)
        await refused(url)

        await ask(url, 5)


async def refused(url: str) -> None:
    """Wait until a reload was refused, which is told on standard error."""
    async with asyncio.timeout(10), httpx2.AsyncClient() as http:
        while True:
            counted = (await http.get(f"{url}/metrics")).text
            if 'headrace_reloads_total{outcome="failed"}' in counted:
                return


async def test_a_worker_is_replaced_although_nobody_reads_of_it(tmp_path: Path) -> None:
    async with telling(tmp_path, workers=2) as (process, url):
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        before = {*children.read_text().split()}
        for pid in before:
            os.kill(int(pid), signal.SIGKILL)

        await eventually(lambda: len({*children.read_text().split()} - before) == 2, within=10)
        await ask(url, 5)


async def test_what_clients_send_that_is_no_http_fills_no_log() -> None:
    async with serving("upstreams: {a: mock}\nroutes: {m: a}\n") as served:
        for _ in range(20):
            async with wire(served.url) as client:
                await client.send(b"\0garbage\r\n\r\n")
                assert b"400" in await client.rest()
        upgrade = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: nothing\r\n\r\n"
        async with wire(served.url) as client:
            await client.send(upgrade)
            await client.until(b"\r\n\r\n")
        before = [*served.said]

    assert served.said == before
    assert not [line for line in served.said if "uvicorn" in line]


def test_why_it_does_not_start_is_told_in_full(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "headrace", "serve", str(tmp_path / "gateway.yaml")]
    (tmp_path / "gateway.yaml").write_text("upstreams: {a: mook}\n")

    done = subprocess.run(command, capture_output=True, text=True, timeout=30)

    assert done.returncode == 1
    assert "no forwarder is called 'mook'" in done.stderr
    assert done.stderr.endswith("1 problem\n")


def test_of_what_it_dies_is_told_in_full(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(DYING)
    (tmp_path / "gateway.yaml").write_text(CONFIG)
    command = [sys.executable, "-m", "headrace", "serve", "--port", "0"]
    environ = {**os.environ, "PYTHONPATH": str(tmp_path)}

    done = subprocess.run(
        command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=30
    )

    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "\nRuntimeError: of this\n" in done.stderr


DYING = """
import asyncio

def run(*arguments, **options):
    raise RuntimeError("of this")

asyncio.Runner.run = asyncio.run = run
"""


def test_what_was_not_written_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.pipe()
    with open(theirs, "w") as full:
        fill(theirs)
        monkeypatch.setattr(sys, "stderr", full)
        monkeypatch.setattr(atexit, "register", lambda ended: None)
        output = ErrorOutput()
        lost: list[int] = []
        output.lose = lost.append

        for number in range(10_100):
            sys.stderr.write(f"{number}\n")

        assert sum(lost) == 100
        told = b""
        while b"\n9999\n" not in told:
            told += os.read(ours, 1 << 16)
    os.close(ours)
