"""What calls hold until they end: renewed while they run, given back once, whatever happens."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from contextvars import Context
from itertools import islice
from typing import NamedTuple, TypeVar

from headrace import Step, Store, Unavailable
from headrace_plugins.rate_limit.policies import Limit

Result = TypeVar("Result")

_PATIENCE = 0.05
_AGAIN = 1.0
_AT_ONCE = 250
_MOST_OWED = 10_000


class Budget:
    """The time that a call may wait for the store, all in all."""

    def __init__(self) -> None:
        self._left = _PATIENCE

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


class Hold(NamedTuple):
    """What one call holds of some limits, by an id that is its own."""

    call: int
    limits: tuple[Limit, ...]


class _Owed(NamedTuple):
    steps: list[Step]
    until: float
    """From then on the hold has lapsed, and the steps are of no use."""


class Holds:
    """All that calls hold in a store. One task renews it while there is any, and pays what is owed.

    What nobody renews, because its process is gone, lapses after `lease` seconds.
    """

    def __init__(self, store: Store, lease: float) -> None:
        self._store = store
        self._lease = lease
        self._held: dict[int, Hold] = {}
        self._owed: deque[_Owed] = deque(maxlen=_MOST_OWED)
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def keep(self, hold: Hold) -> None:
        """Renew it until it ends."""
        self._held[hold.call] = hold
        self._begin()

    async def end(self, hold: Hold, used: Sequence[int], budget: Budget) -> None:
        """Give it back, but for what was `used` of each limit; later, where that cannot be now."""
        if self._held.pop(hold.call, None) is None:
            return
        try:
            await budget.of(self._store.apply(*self._settling(hold, used, again=False)))
        except Unavailable:
            self._owe(hold, used)
        except BaseException:
            self._owe(hold, used)
            raise

    def undo(self, hold: Hold) -> None:
        """Give back what may have been taken or not, without waiting for it."""
        self._owe(hold, [0] * len(hold.limits))

    async def aclose(self) -> None:
        """Stop renewing; what is owed is tried once more."""
        if self._task:
            self._task.cancel()
            await asyncio.wait((self._task,))
        await self._pay()

    def _settling(self, hold: Hold, used: Sequence[int], *, again: bool) -> list[Step]:
        return [
            limit.settle(hold.call, tokens, self._lease, again=again)
            for limit, tokens in zip(hold.limits, used, strict=True)
        ]

    def _owe(self, hold: Hold, used: Sequence[int]) -> None:
        if hold.limits:
            until = asyncio.get_running_loop().time() + self._lease
            self._owed.append(_Owed(self._settling(hold, used, again=True), until))
            self._begin()
            self._news.set()

    def _begin(self) -> None:
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
        """Do what is owed, a few hundred calls at a time, as long as the store answers."""
        while self._owed:
            now = asyncio.get_running_loop().time()
            some = list(islice(self._owed, _AT_ONCE))
            steps = [step for owed in some if owed.until > now for step in owed.steps]
            try:
                await Budget().of(self._store.apply(*steps))
            except Unavailable:
                return
            for owed in some:
                if self._owed[0] is owed:  # it is not where so much came that the first went
                    self._owed.popleft()

    async def _renew(self) -> None:
        """Renew what is held, a few hundred calls at a time."""
        held = list(self._held.values())
        for at in range(0, len(held), _AT_ONCE):
            limits: dict[str, Limit] = {}
            calls: defaultdict[str, list[int]] = defaultdict(list)
            for hold in held[at : at + _AT_ONCE]:
                for limit in hold.limits:
                    limits[limit.key] = limit
                    calls[limit.key].append(hold.call)
            steps = [limits[key].renew(calls[key], self._lease) for key in limits]
            with suppress(Unavailable):  # there is time for one more, and then what lapsed is owed
                await Budget().of(self._store.apply(*steps))
            await asyncio.sleep(0)
