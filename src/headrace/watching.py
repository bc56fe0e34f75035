"""The files of a configuration, looked at now and then."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from headrace.config.document import Document, Versions

_IDLE = 5.0
"""Seconds until it is seen that looking was asked for."""


async def watch(
    every: Callable[[], float | None],
    read: Callable[[], Document | None],
    changed: Callable[[], Awaitable[object]],
) -> None:
    """Call `changed` when the files of the document that was `read` last are others by now.

    `every` tells the seconds between two looks; None while nobody wants them. A file that is just
    being written is left alone: it has to look the same twice.
    """
    last: Versions | None = None
    while True:
        seconds = every()
        await asyncio.sleep(seconds or _IDLE)
        document = read()
        if seconds and document:
            found = await asyncio.to_thread(document.versions_now)
            if found != document.versions and found == last:
                await changed()
            last = found
