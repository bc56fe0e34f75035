"""A gateway as a reader of the docs would start it, in a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

_LIVE = ("is live at ", "Uvicorn running on ")

MOCK = """\
upstreams: {mock: mock}
routes: {fast: mock, "*": mock}
"""
"""A gateway for blocks that bring none."""


@asynccontextmanager
async def served(folder: Path, *command: str, **environ: str) -> AsyncIterator[str]:
    """The address of a gateway that runs in `folder`; it must end well when it is told to."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *(command or ("headrace", "serve", "--port", "0")),
        cwd=folder, env=environment(**environ), stdout=DEVNULL, stderr=PIPE,
    )  # fmt: skip
    assert process.stderr
    said: list[str] = []
    live = asyncio.get_running_loop().create_future()
    hearing = asyncio.create_task(_hear(process.stderr, said, live))
    try:
        async with asyncio.timeout(120):  # a model may have to be fetched
            url = await live
        assert url, "".join(["it ended before it was live:\n", *said])
        yield url
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(20):
                status = await process.wait()
        except TimeoutError:
            process.kill()
            status = await process.wait()
        await hearing
    assert status in (0, -signal.SIGTERM), "".join(said)
    assert not any("Traceback" in line for line in said), "".join(said)


async def _hear(stream: asyncio.StreamReader, said: list[str], live: asyncio.Future[str]) -> None:
    """Note every line; `live` is the address that one of them tells, or nothing at the end."""
    while line := (await stream.readline()).decode():
        said.append(line)
        for sign in _LIVE:
            if sign in line and not live.done():
                live.set_result(line.split(sign)[1].split()[0])
    if not live.done():
        live.set_result("")


async def ran(command: Sequence[str], folder: Path, **environ: str) -> tuple[int, str]:
    """The exit status of a command, and all it printed."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env=environment(**environ), stdout=PIPE, stderr=STDOUT
    )
    try:
        async with asyncio.timeout(120):
            printed, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, printed.decode()


def environment(**more: str) -> dict[str, str]:
    """What a process needs to run, without anybody's keys, and with this Python's commands."""
    kept = ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR", "PYTHONPATH", "LANG")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**{name: os.environ[name] for name in kept if name in os.environ}, "PATH": path, **more}
