"""What calls hold until they end: renewed while they run, given back once, whatever happens."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from contextvars import Context
from typing import NamedTuple

from headrace import Step, Store, Unavailable
from headrace_plugins.rate_limit.budget import Budget
from headrace_plugins.rate_limit.hold import Hold
from headrace_plugins.rate_limit.policies import Limit

logger = logging.getLogger("headrace")

_AGAIN = 1.0
_AT_ONCE = 250
_MOST_OWED = 10_000


class _Owed(NamedTuple):
    steps: list[Step]
    until: float
    """From then on nobody knows any more whether it has been done."""


class Holds:
    """All that calls hold in a store. One task renews it while there is any, and pays what is owed.

    What nobody renews, because its process is gone, lapses after `lease` seconds.
    """

    def __init__(self, store: Store, name: str, lease: float) -> None:
        self._store = store
        self._name = name
        self._lease = lease
        self._held: dict[str, Hold] = {}
        self._group = 0
        self._since = -math.inf
        self._owed: deque[_Owed] = deque(maxlen=_MOST_OWED)
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def new(self, limits: Sequence[Limit]) -> Hold:
        """What a call will hold of limits that have something to give back.

        Calls that begin within a third of a lease are one group, so that it cannot lapse while more
        are coming, whatever keeps this process from renewing it. It is renewed as long as one of
        them runs; with the last one ends what was taken without anybody knowing.
        """
        now = asyncio.get_running_loop().time()
        if now - self._since > self._lease / 3:
            self._group, self._since = _number(), now
        holding = tuple(limit for limit in limits if limit.holds)
        return Hold(f"{{{self._name}}}/call/{_number():x}", self._group, holding)

    def keep(self, hold: Hold) -> None:
        """Renew it until it ends."""
        self._held[hold.key] = hold
        self._begin()

    async def end(self, hold: Hold, used: Sequence[int], budget: Budget) -> None:
        """Give it back, but for what was `used` of each limit; later, where that cannot be now."""
        if self._held.pop(hold.key, None) is None:
            return
        try:
            await budget.of(self._store.apply(*hold.settle(used, self._lease, again=False)))
        except Unavailable:
            self._owe(hold, used)
        except BaseException:
            self._owe(hold, used)
            raise

    def undo(self, hold: Hold) -> None:
        """Give back what may have been taken or not, without waiting for it."""
        self._owe(hold, [0] * len(hold.limits))

    def open(self) -> None:
        """Renew and pay from now on."""
        self._closed = False

    async def aclose(self) -> None:
        """Stop renewing; what is owed is tried once more."""
        self._closed = True
        if self._task:
            self._task.cancel()
            await asyncio.wait((self._task,))
        await self._pay()

    def _owe(self, hold: Hold, used: Sequence[int]) -> None:
        if hold.limits:
            until = asyncio.get_running_loop().time() + self._lease
            self._owed.append(_Owed(hold.settle(used, self._lease, again=True), until))
            self._begin()
            self._news.set()

    def _begin(self) -> None:
        if self._closed:
            return
        if self._task is None or self._task.done():
            self._news = asyncio.Event()
            # In a context of its own: it is no part of the call that happens to come first.
            self._task = asyncio.create_task(self._work(), context=Context())

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + self._lease / 3
        while self._held or self._owed:
            await self._pay()
            next_time = min(due, loop.time() + _AGAIN) if self._owed else due
            with suppress(TimeoutError):
                async with asyncio.timeout_at(next_time):
                    await self._news.wait()
            self._news.clear()
            if loop.time() >= due:
                await self._renew()
                due = loop.time() + self._lease / 3

    async def _pay(self) -> None:
        """Do what is owed, as long as the store answers."""
        while self._owed:
            owed = self._owed[0]
            useful = owed.until > asyncio.get_running_loop().time()
            if useful and not await self._done(owed.steps):
                return
            if self._owed and self._owed[0] is owed:  # so much may come that the first is gone
                self._owed.popleft()

    async def _renew(self) -> None:
        """Renew what is held, a few hundred calls at a time."""
        held = list(self._held.values())
        for at in range(0, len(held), _AT_ONCE):
            some = held[at : at + _AT_ONCE]
            limits = {limit.key: (limit, set[int]()) for hold in some for limit in hold.limits}
            for hold in some:
                for limit in hold.limits:
                    limits[limit.key][1].add(hold.group)
            steps = [limit.renew(groups, self._lease) for limit, groups in limits.values()]
            steps += [hold.go_on(self._lease) for hold in some]
            if not await self._done(steps):
                return  # there is time for one more
            await asyncio.sleep(0)

    async def _done(self, steps: Sequence[Step]) -> bool:
        """Take steps in the background; whether the store has answered."""
        try:
            await Budget().of(self._store.apply(*steps))
        except Unavailable:
            return False
        except Exception:  # what fails for good must not keep all else from being done
            logger.exception("what calls hold could not be renewed or given back")
        return True


def _number() -> int:
    """One that nobody else has, and that a float holds to its last digit; never 0."""
    return random.getrandbits(53) or 1
