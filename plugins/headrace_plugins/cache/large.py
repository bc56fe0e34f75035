"""Work on large answers, done beside the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

_LARGE = 64 * 1024
"""Answers of so many bytes take some milliseconds to be put together, taken apart or compressed."""


async def worked(size: int, work: Callable[[], Result]) -> Result:
    """What `work` on so many bytes comes to; where these are many, nobody waits for it."""
    return work() if size <= _LARGE else await asyncio.to_thread(work)
