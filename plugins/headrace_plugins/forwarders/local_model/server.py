"""One model server for each machine, however many gateways and workers use it.

    async with ModelServer(model=file, alias="smollm2-135m-instruct") as server:
        address = await server.address()

Whoever asks first takes a lock, starts the child (`child.py`) and keeps it running; all others find
its port in a file beside the lock. Both lock and child end with the process that holds them, also
when it is killed, and the next one that asks takes over. The machine means: this user, this file,
these settings.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import logging
import os
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Self

from headrace_plugins.forwarders.local_model.process import LEAVE, ModelServerFailed, running

__all__ = ["ModelServer", "ModelServerFailed"]

log = logging.getLogger("headrace.local")

LOOK_AGAIN = 0.02
"""Seconds between two looks at what another process does."""
PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before a child that ended is started again; doubled each time."""
HEALTHY = 60.0
"""Seconds a child must live for the pause to be short again."""


@dataclass(kw_only=True, eq=False)
class ModelServer:
    """The machine's server of one model: shared where it runs, started where it does not.

    Closing it ends the server if it was started here. Calls that other processes have under way
    there break then, and the next `address()` of one of them starts another.
    """

    model: Path
    """The .gguf file."""
    alias: str
    """What the model is called in replies."""
    context: int = 2048
    """How many tokens one call may have, in and out."""
    parallel: int = 4
    """How many calls are answered at once; the others wait. Each takes memory for its context."""
    threads: int | None = None
    """How many threads of the CPU it takes; every core if not said."""
    start_within: float = 60.0
    """How many seconds a start may take."""

    _open: bool = field(default=False, init=False)
    _lock: IO[bytes] | None = field(default=None, init=False)
    _keeper: asyncio.Task[None] | None = field(default=None, init=False)
    _state: Mapping[str, Any] = field(default_factory=dict, init=False)
    _trusted: int | None = field(default=None, init=False)
    _logged: str | None = field(default=None, init=False)

    async def __aenter__(self) -> Self:
        self._open = True
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._open = False
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)  # `address` has raised it
            self._keeper = None
        if self._lock is not None:
            self._tell()
            self._lock.close()
            self._lock = None

    async def address(self, *, refused: str | None = None) -> str:
        """Where the server is, as `http://127.0.0.1:PORT`, once it answers there.

        Ask before every call: it costs microseconds, and the server may have moved. `refused` is an
        address from here that has since refused a connection; it is not given again unless it
        answers.
        """
        try:
            async with asyncio.timeout(self.start_within + 2 * LEAVE):
                while True:
                    state = self._look()
                    if "failure" in state:
                        raise ModelServerFailed(state["failure"])
                    if "port" in state and await self._trust(state["port"], refused):
                        return _url(state["port"])
                    await asyncio.sleep(LOOK_AGAIN)
        except TimeoutError:
            raise ModelServerFailed(
                f"the process that keeps the model server of {self.alias} has not said "
                f"in {self.start_within:g} s where it is"
            ) from None
        except OSError as error:
            raise ModelServerFailed(f"the model server cannot be looked for: {error}") from error

    def _look(self) -> Mapping[str, Any]:
        """What the keeper of the server says of it; where there is no keeper, become it."""
        if not self._open:
            raise RuntimeError("this ModelServer is not open: use it in `async with`")
        if self._keeper is None and self._claim():
            self._keeper = asyncio.create_task(self._keep())
        if self._keeper is None:
            return _read(self._files.with_suffix(".json"))
        if self._keeper.done():
            self._keeper.result()
        return self._state

    def _claim(self) -> bool:
        """Take the lock, if nobody holds it. It is free as soon as its holder is gone."""
        lock = self._files.with_suffix(".lock").open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return False
        self._lock = lock
        return True

    async def _trust(self, port: int, refused: str | None) -> bool:
        """Whether the server is there: it was, and nobody says otherwise, or it answers."""
        if port != self._trusted or _url(port) == refused:
            self._trusted = port if await _answers(port) else None
        return port == self._trusted

    @cached_property
    def _files(self) -> Path:
        """The lock and the state, but for their suffix."""
        what = [str(self.model.resolve()), self.alias, self.context, self.parallel, self.threads]
        digest = hashlib.sha256(json.dumps(what).encode()).hexdigest()
        return _directory() / f"model-{digest[:16]}"

    async def _keep(self) -> None:
        """Keep a child running until cancelled."""
        loop = asyncio.get_running_loop()
        pause = PAUSE
        while True:
            self._tell()
            began = loop.time()
            try:
                ended = await self._live()
            except (ModelServerFailed, OSError) as error:
                failure = f"the model server of {self.alias} did not start: {error}"
                self._tell(failure=failure)
                self._log(logging.ERROR, failure)
            else:
                self._log(
                    logging.WARNING,
                    f"the model server of {self.alias} {ended}; it is started again",
                )
            if loop.time() - began > HEALTHY:
                pause = PAUSE
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _live(self) -> str:
        """One child, from start to end; gives back how it ended."""
        options = {
            "model": self.model.resolve(),
            "alias": self.alias,
            "context": self.context,
            "parallel": self.parallel,
            "threads": self.threads or -1,
        }
        async with running(options, within=self.start_within) as child:
            self._tell(port=child.port, pid=child.process.pid)
            self._log(logging.INFO, f"the model server of {self.alias} is on port {child.port}")
            try:
                return await child.end()
            finally:
                self._tell()

    def _tell(self, **state: int | str) -> None:
        """Say here and to other processes how the server is; nothing means: wait."""
        self._state = state
        file = self._files.with_suffix(".json")
        if state:
            new = file.with_suffix(".new")
            new.write_text(json.dumps(state))
            new.replace(file)
        else:
            file.unlink(missing_ok=True)

    def _log(self, level: int, message: str) -> None:
        """Log a change; what was said last is not said again."""
        if message != self._logged:
            log.log(level, "%s", message)
        self._logged = message


async def _answers(port: int) -> bool:
    """Whether a server is there that is well: one that dies still takes connections for a while."""
    try:
        async with asyncio.timeout(1):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(
                    b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
                )
                return b" 200 " in await reader.readline()
            finally:
                writer.close()
    except OSError:
        return False


def _url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def _read(file: Path) -> Mapping[str, Any]:
    """What another process says in its file; nothing where there is none."""
    try:
        state: Mapping[str, Any] = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    return state


def _directory() -> Path:
    """A folder of this user's on this machine, where nobody else can write."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.access(runtime, os.W_OK):
        directory = Path(runtime, "headrace")
    else:
        directory = Path(tempfile.gettempdir(), f"headrace-{os.getuid()}")
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise ModelServerFailed(
            f"{directory} must be a folder that only this user can write to; remove it, or set "
            "XDG_RUNTIME_DIR to such a folder"
        )
    return directory
