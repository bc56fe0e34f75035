"""Counting a call against all of its limits in one store: all of them take it, or none does."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from headrace import Store
from headrace_plugins.rate_limit.bucket import Answer
from headrace_plugins.rate_limit.budget import Budget
from headrace_plugins.rate_limit.found import Found
from headrace_plugins.rate_limit.hold import Hold
from headrace_plugins.rate_limit.holds import Holds
from headrace_plugins.rate_limit.policies import BUCKET, Limit
from headrace_plugins.rate_limit.standing import forgetting

if TYPE_CHECKING:
    from headrace_plugins.rate_limit.windows import Windows


class Counter:
    """Counts calls in a store; `holds` gives back what they hold."""

    def __init__(self, store: Store, name: str, lease: float) -> None:
        self.holds = Holds(store, name, lease)
        self._store = store
        self._lease = lease

    @cached_property
    def windows(self) -> Windows:
        """Where windows are counted. Raises `NotImplementedError` where the store cannot."""
        from headrace_plugins.rate_limit.windows import Windows

        return Windows(self._store.windows())

    async def take(self, limits: Sequence[Limit], budget: Budget) -> tuple[list[Found], Hold]:
        """Take what the call needs from all limits, or nothing; what was there, and what it holds.

        Cancelled, or where the store does not answer, it takes nothing in the end.
        """
        hold = self.holds.new(limits)
        try:
            found = await budget.of(self._take(limits, hold))
        except BaseException:
            self.holds.undo(hold)
            raise
        if hold.limits and all(each.fits for each in found):
            self.holds.keep(hold)
        return found, hold

    async def peek(self, limits: Sequence[Limit], budget: Budget) -> list[Found]:
        """What there is, nothing taken."""
        return await budget.of(self._peek(limits))

    async def look(self, limits: Sequence[Limit]) -> list[Found]:
        """The same for who has time. The keys of one plugin share a tag, so one step has all."""
        return await self._peek(limits)

    async def forget(self, limits: Sequence[Limit]) -> None:
        """Forget what was counted; what calls hold at the moment is given back to nobody."""
        windowed = [limit for limit in limits if limit.strategy != BUCKET]
        if windowed:
            await self.windows.clear(windowed)
        await self._store.apply(*map(forgetting, limits))

    async def _take(self, limits: Sequence[Limit], hold: Hold) -> list[Found]:
        windowed = [limit for limit in limits if limit.strategy != BUCKET]
        buckets = [limit for limit in limits if limit.strategy == BUCKET]
        seen = await self.windows.look(windowed) if windowed else []
        if not all(each.fits for each in seen):
            return [*seen, *await self._peek(buckets)]
        steps = [limit.take(hold.group, self._lease) for limit in buckets]
        steps += hold.begin(self._lease)
        answers = (await self._store.apply(*steps))[: len(buckets)]
        found = list(map(Found.in_buckets, buckets, answers))
        if not all(each.fits for each in found):
            await self._note_time(buckets, answers)
        elif windowed:
            # These are no one step with the others: what somebody else took meanwhile shows here.
            seen = await self.windows.hit(seen)
            if not all(each.fits for each in seen):
                self.holds.undo(hold)
        return [*seen, *found]

    async def _peek(self, limits: Sequence[Limit]) -> list[Found]:
        windowed = [limit for limit in limits if limit.strategy != BUCKET]
        buckets = [limit for limit in limits if limit.strategy == BUCKET]
        seen = await self.windows.look(windowed) if windowed else []
        answers = await self._store.apply(*(limit.peek() for limit in buckets))
        return [*seen, *map(Found.in_buckets, buckets, answers)]

    async def _note_time(self, limits: Sequence[Limit], answers: Sequence[Answer]) -> None:
        """Let buckets fill from now on whose clock has gone back; who was refused changed nothing.

        Else nobody would be let in until the clock is where it was.
        """
        if any(back for _, back, *_ in answers):
            await self._store.apply(*(limit.renew((), self._lease) for limit in limits))
