"""How long a call may wait for the store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from headrace import Unavailable

Result = TypeVar("Result")

PATIENCE = 0.05
"""Seconds."""


class Budget:
    """The time that a call may wait for the store, all in all."""

    def __init__(self, seconds: float | None = None) -> None:
        self._left = PATIENCE if seconds is None else seconds

    async def of(self, work: Awaitable[Result]) -> Result:
        """What comes of `work`. Raises `Unavailable` where there is no more time for it."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(self._left):
                return await work
        except TimeoutError:
            raise Unavailable("the store took longer than a call may wait for it") from None
        finally:
            self._left = max(0.0, self._left - (loop.time() - began))
