"""Whether Redis answers: noticed once, said once, and found out by nobody's call."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

logger = logging.getLogger("headrace")

FAILURES = 5
"""How many in a row say that it does not answer."""


class Breaker:
    """Knows why a store does not answer, and tries by itself, once a second, until it does.

    `mend` tries, and says why it did not succeed.
    """

    fault: str | None = None

    def __init__(self, name: str, mend: Callable[[], Awaitable[str | None]]) -> None:
        self._name = name
        self._mend = mend
        self._failures = 0
        self._mending: asyncio.Task[None] | None = None
        self._closed = False

    def worked(self) -> None:
        """An answer came."""
        self._failures = 0

    def failed(self, why: str) -> None:
        """None came."""
        self._failures += 1
        if self._failures >= FAILURES:
            self.open(why)

    def open(self, why: str) -> None:
        """Nobody is to ask it any more."""
        if self.fault is None:
            logger.warning(
                "the store at %s does not answer: %s; calls go on without it, and it is asked "
                "again once a second",
                self._name,
                why,
            )
        self.fault = why
        self.mend()

    def mend(self) -> None:
        """See to it that what is wrong is mended."""
        if not self._closed and (self._mending is None or self._mending.done()):
            self._mending = asyncio.create_task(self._until_mended())

    async def aclose(self) -> None:
        """Try no more."""
        self._closed = True
        if self._mending:
            self._mending.cancel()
            await asyncio.wait([self._mending])

    async def _until_mended(self) -> None:
        # At random, or all workers would ask at once.
        await asyncio.sleep(random.uniform(0.8, 1.2))  # noqa: S311  no secret depends on it
        while why := await self._mend():
            if self.fault is not None:
                self.fault = why
            await asyncio.sleep(random.uniform(0.8, 1.2))  # noqa: S311
        if self.fault is not None:
            logger.info("the store at %s answers again", self._name)
        self.fault = None
        self._failures = 0
