"""The clock of tests."""

from __future__ import annotations

import asyncio
import time

from headrace.testing.clock import Clock


async def test_a_clock_put_forward_lets_timers_fire(clock: Clock) -> None:
    fired = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(3600, fired.set_result, True)

    clock.advance(3600)

    assert await fired


async def test_a_jumping_clock_waits_for_nothing(clock: Clock) -> None:
    clock.jumps = True
    real, loop = time.monotonic(), clock.now

    await asyncio.sleep(1000)

    assert clock.now - loop >= 1000
    assert time.monotonic() - real < 1
