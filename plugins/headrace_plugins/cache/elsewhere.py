"""The same question in another replica: who holds its lease asks, the others wait for it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from headrace import Full, Unavailable
from headrace_plugins.cache.question import Question
from headrace_plugins.cache.shelf import Shelf
from headrace_plugins.cache.stored import Stored

_FIRST, _LAST = 0.02, 0.2
"""Seconds between two looks for the answer, at first and at last."""
_LONGEST = 3600.0
"""Seconds after which the lease of a process that has died is nobody's any more."""


async def elsewhere(
    asking: Question, shelf: Shelf, held: AsyncExitStack, *, wait: float
) -> Stored | None:
    """What another replica was answered in the meantime; None where this one is to ask.

    Then it holds the lease as long as `held` is open, if it is to be had at all: after `wait`
    seconds, or where the store does not answer, it is asked without one.
    """
    now = asyncio.get_running_loop().time
    until, pause = now() + wait, _FIRST
    while True:
        mine = await _leased(asking, shelf, held)
        found = await shelf.get(asking, asking.key)  # it may have come before the lease was free
        if found and shelf.is_fresh(found) and asking.control.takes(shelf.age(found)):
            return found
        if mine or now() >= until:
            return None
        with asking.call.record.waiting():
            await asyncio.sleep(pause)
        pause = min(pause * 1.5, _LAST)


async def _leased(asking: Question, shelf: Shelf, held: AsyncExitStack) -> bool:
    """Whether there is nobody to wait for."""
    lasts = min(max(1.0, asking.call.deadline.left()), _LONGEST)
    try:
        await held.enter_async_context(shelf.store.lease(asking.key, 1, ttl=lasts))
    except Full:
        return False
    except Unavailable:
        asking.stores = False
    return True
