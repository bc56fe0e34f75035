"""All questions that are being asked, each by the key of its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from headrace import Overloaded
from headrace_plugins.cache.control import Control
from headrace_plugins.cache.flight import Flight
from headrace_plugins.cache.question import Question

CLOSING = "shutting_down"
Work = Callable[[Flight], Coroutine[Any, Any, None]]


class Flights:
    """Those whose beginning is still there, so that others may listen; and all that run."""

    def __init__(self) -> None:
        self._open: dict[str, Flight] = {}
        self._alone: set[str] = set()
        self._running: dict[asyncio.Task[None], Flight] = {}

    def get(self, key: str) -> Flight | None:
        """The one that others may join."""
        return self._open.get(key)

    def renews(self, key: str) -> bool:
        """Whether there will be a new answer soon."""
        return key in self._open or key in self._alone

    def begin(
        self, asking: Question, work: Work, *, largest: int, shared: bool, alone: bool
    ) -> Flight:
        """A new one; where it is `shared`, it takes the place of another under the same key."""
        key = asking.key

        def left(flight: Flight) -> None:
            if self._open.get(key) is flight:
                del self._open[key]

        def ended(task: asyncio.Task[None]) -> None:
            del self._running[task]
            left(flight)
            if not flight.over:  # ended before its first step: nobody else would tell who listens
                flight.end(Overloaded("this gateway is shutting down", code=CLOSING))
            if alone:
                self._alone.discard(key)

        first = not alone and asking.control == Control()
        flight = Flight(asking.call, largest=largest, left=left, alone=alone, first=first)
        if shared:
            self._open[key] = flight
        if alone:
            self._alone.add(key)
        task = flight.begin(work(flight))
        self._running[task] = flight
        task.add_done_callback(ended)
        return flight

    async def aclose(self) -> None:
        """End those that are under way; what has its end already is let finish."""
        for task, flight in self._running.items():
            if not flight.over:
                task.cancel()
        if self._running:
            await asyncio.wait(tuple(self._running))
