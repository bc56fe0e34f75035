"""Opens and closes parts; one that the next configuration has, too, stays open."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from headrace.reply import shielded

logger = logging.getLogger("headrace")

_Work = Callable[[], Awaitable[None]]


class Caretaker:
    """Opens parts and closes them, all of it in one task of its own.

    What a part opens may be left by the task alone that entered it, and a configuration can be
    changed from any. `needed` tells the parts that are in use; it is asked when it matters.
    """

    def __init__(self, needed: Callable[[], Iterable[object]]) -> None:
        self._needed = needed
        self._open: dict[int, AbstractAsyncContextManager[Any]] = {}
        self._asked: asyncio.Queue[tuple[_Work, asyncio.Future[None]] | None] = asyncio.Queue()
        self._current: asyncio.Future[None] | None = None

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """Work as long as this lasts; in the end everything is closed."""
        self._task = asyncio.create_task(self._work())
        try:
            yield
        finally:
            if self._current:  # an opening that hangs would keep everything else open
                self._task.cancel()
            await shielded(self._do(lambda: self._leave(())))
            self._asked.put_nowait(None)
            await shielded(self._task)

    async def open(self, parts: Iterable[object], *, within: float | None = None) -> None:
        """Open those that are not open; if one fails, those that were opened before it are closed.

        Raises what the part raised, and `TimeoutError` where it took more than `within` seconds.
        """
        wanted = [part for part in parts if isinstance(part, AbstractAsyncContextManager)]
        async with asyncio.timeout(within):
            await self._do(lambda: self._enter(wanted))

    def tidy(self) -> None:
        """Close what nobody needs any more, soon."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked.put_nowait((lambda: self._leave(self._needed()), done))

    async def _do(self, work: _Work) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked.put_nowait((work, done))
        try:
            await asyncio.wait((done,))
        except asyncio.CancelledError:
            if self._current is done:
                self._task.cancel()
            else:
                done.cancel()
            raise
        done.result()

    async def _work(self) -> None:
        while asked := await self._asked.get():
            work, done = asked
            if done.cancelled():
                continue
            self._current = done
            try:
                await work()
            except asyncio.CancelledError:
                self._task.uncancel()
                done.cancel()
            except Exception as error:  # noqa: BLE001  it is for who asked
                done.set_exception(error)
                done.exception()  # who asked may have gone
            else:
                done.set_result(None)
            self._current = None

    async def _enter(self, parts: Iterable[AbstractAsyncContextManager[Any]]) -> None:
        before = set(self._open)
        try:
            for part in parts:
                if id(part) not in self._open:
                    await part.__aenter__()
                    self._open[id(part)] = part
        except BaseException:
            await self._close([key for key in self._open if key not in before])
            raise

    async def _leave(self, kept: Iterable[object]) -> None:
        keys = {id(part) for part in kept}
        await self._close([key for key in self._open if key not in keys])

    async def _close(self, keys: Iterable[int]) -> None:
        """Close them, the last one first; one that fails keeps no other one open."""
        for key in reversed(list(keys)):
            part = self._open.pop(key)
            try:
                await part.__aexit__(None, None, None)
            except Exception:
                logger.exception("%s failed to close", type(part).__name__)
