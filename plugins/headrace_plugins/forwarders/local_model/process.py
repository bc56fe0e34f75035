"""The model server's process, seen from the gateway: started, listened to, ended."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger("headrace.local")

CHILD = Path(__file__).with_name("child.py")
LEAVE = 3.0
"""Seconds a process has to end by itself."""


class ModelServerFailed(Exception):
    """There is no model server; the message says why, in its own last words."""


@dataclass(frozen=True)
class Running:
    """A model server that answers."""

    process: Process
    port: int

    async def end(self) -> str:
        """Wait until it is gone; how that came about, in words."""
        return _how(await self.process.wait())


@asynccontextmanager
async def running(options: dict[str, object], *, within: float) -> AsyncIterator[Running]:
    """Run `child.py` with these options; leaving ends it, whatever it is doing.

    It is given once it answers, `within` so many seconds.
    """
    arguments = (f"--{name}={value}" for name, value in options.items())
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", CHILD, *arguments, stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    words = _Words()
    hearing = asyncio.create_task(words.hear(process))
    try:
        port = await _port(process, within)
        if port is None:
            await asyncio.wait([hearing])
            raise ModelServerFailed(f"it {_how(await process.wait())}{words}")
        yield Running(process, port)
    finally:
        await _dismiss(process)
        await hearing


async def _port(process: Process, within: float) -> int | None:
    """The port that the process says it answers on; None when it ended instead."""
    assert process.stdout
    try:
        async with asyncio.timeout(within):
            line = await process.stdout.readline()
    except TimeoutError:
        raise ModelServerFailed(f"it was not ready within {within:g} s") from None
    return int(json.loads(line)["port"]) if line else None


async def _dismiss(process: Process) -> None:
    """End a process: it leaves with its stdin, or is killed."""
    if process.returncode is not None:
        return
    assert process.stdin
    process.stdin.close()
    try:
        async with asyncio.timeout(LEAVE):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _how(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"


class _Words:
    """The last words of a process."""

    def __init__(self) -> None:
        self._last = b""

    async def hear(self, process: Process) -> None:
        """Take in what it writes to stderr: a full pipe would stop it."""
        assert process.stderr
        while said := await process.stderr.read(4096):
            self._last = (self._last + said)[-2000:]
            # It may quote a few bytes of a call that it did not understand: not for every log.
            log.debug("%s", said.decode(errors="replace").rstrip())

    def __str__(self) -> str:
        lines = self._last.decode(errors="replace").splitlines()
        return "".join(f"\n  {line}" for line in lines[-10:])
