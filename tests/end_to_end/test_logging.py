"""Whoever reads the access log slowly, or not at all, keeps no call waiting."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from .serving import chat

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
