"""Time for tests: an event loop whose clock is turned by hand, so that no test sleeps."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Mapping
from typing import Any, Self


class ClockLoop(asyncio.SelectorEventLoop):
    """An event loop with a clock that can be put forward; until then it tells real time."""

    def __init__(self) -> None:
        super().__init__(_Selector(self))
        self.ahead = 0.0
        self.jumps = False

    def time(self) -> float:
        """Real monotonic seconds, and those by which the clock was put forward."""
        return super().time() + self.ahead


class Clock:
    """The clock of the running `ClockLoop`.

    `advance` puts it forward. With `jumps` set, it goes on by itself to the next timer whenever
    nothing else is left to do: right for tests without sockets.
    """

    def __init__(self, loop: ClockLoop) -> None:
        self._loop = loop

    @classmethod
    def running(cls) -> Self:
        """The clock of the running loop, which must be a `ClockLoop`."""
        loop = asyncio.get_running_loop()
        if not isinstance(loop, ClockLoop):
            raise RuntimeError(
                "the clock needs headrace.testing.ClockLoop as the event loop; "
                "let the anyio_backend fixture return headrace.testing.BACKEND"
            )
        return cls(loop)

    @property
    def now(self) -> float:
        """Seconds."""
        return self._loop.time()

    @property
    def jumps(self) -> bool:
        """Whether waiting for time alone takes no time."""
        return self._loop.jumps

    @jumps.setter
    def jumps(self, jumps: bool) -> None:
        self._loop.jumps = jumps

    def advance(self, seconds: float) -> None:
        """Put the clock forward; timers that became due fire when the test awaits next."""
        self._loop.ahead += seconds


class _Selector(selectors.DefaultSelector):
    """Waits for sockets; where the loop would only wait for time, it turns the clock instead."""

    def __init__(self, loop: ClockLoop) -> None:
        super().__init__()
        self._clock_of = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if not timeout or not self._clock_of.jumps:
            return super().select(timeout)
        ready = super().select(0)
        if not ready:
            self._clock_of.ahead += timeout
        return ready


BACKEND: tuple[str, Mapping[str, Any]] = ("asyncio", {"loop_factory": ClockLoop})
"""What the `anyio_backend` fixture returns to run tests on a `ClockLoop`."""
