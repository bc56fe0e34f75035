"""Requests counted in windows of time, by the strategies of the library `limits`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from limits import RateLimitItemPerSecond
from limits.aio.storage import Storage
from limits.aio.strategies import (
    FixedWindowRateLimiter,
    MovingWindowRateLimiter,
    RateLimiter,
    SlidingWindowCounterRateLimiter,
)
from limits.errors import StorageError

from headrace import Unavailable
from headrace_plugins.rate_limit.bucket import Bucket
from headrace_plugins.rate_limit.found import Found, Left
from headrace_plugins.rate_limit.policies import Limit

_LATER = {"fixed_window": 0.5, "moving_window": 0.001, "sliding_window": 0.001}
"""Seconds after the moment that the library tells: Redis rounds it to whole ones for the first."""


class Windows:
    """Counts calls in a storage of the library."""

    def __init__(self, storage: Storage) -> None:
        self._strategies: dict[str, RateLimiter] = {
            "fixed_window": FixedWindowRateLimiter(storage),
            "moving_window": MovingWindowRateLimiter(storage),
            "sliding_window": SlidingWindowCounterRateLimiter(storage),
        }
        own = storage.base_exceptions
        self._failures: tuple[type[Exception], ...] = (
            (StorageError, *own) if isinstance(own, tuple) else (StorageError, own)
        )

    async def look(self, limits: Sequence[Limit]) -> list[Found]:
        """What is left, and whether it is enough for one more call."""
        with self._told():
            return [await self._look(limit) for limit in limits]

    async def hit(self, found: Sequence[Found]) -> list[Found]:
        """Count one more call; where it was one too many after all, that is told."""
        with self._told():
            return [each._replace(fits=await self._hit(each.limit)) for each in found]

    async def clear(self, limits: Sequence[Limit]) -> None:
        """Forget all calls that were counted."""
        with self._told():
            for limit in limits:
                for each in limit.rule.buckets:
                    await self._strategies[limit.strategy].clear(_item(limit, each), limit.key)

    async def _look(self, limit: Limit) -> Found:
        strategy, left, fits = self._strategies[limit.strategy], [], True
        for bucket in limit.rule.buckets:
            item = _item(limit, bucket)
            enough = await strategy.test(item, limit.key)
            stats = await strategy.get_window_stats(item, limit.key)
            reset = max(0.0, stats.reset_time - time.time())
            wait = 0 if enough else reset + _LATER[limit.strategy]
            left.append(Left(*bucket[:3], stats.remaining, 1, reset, wait=wait))
            fits = fits and enough
        return Found(limit, fits, tuple(left))

    async def _hit(self, limit: Limit) -> bool:
        strategy = self._strategies[limit.strategy]
        hits = [await strategy.hit(_item(limit, each), limit.key) for each in limit.rule.buckets]
        return all(hits)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """A storage that fails is a store that does not answer."""
        try:
            yield
        except self._failures as error:
            raise Unavailable(f"the store's windows fail with {type(error).__name__}") from error


def _item(limit: Limit, bucket: Bucket) -> RateLimitItemPerSecond:
    """The limit as the library has it. Its keys do not name the strategy, so the namespace does."""
    amount = max(1, int(bucket.amount))
    return RateLimitItemPerSecond(amount, int(bucket.period), namespace=limit.strategy)
