"""Ask the same target again when it may do better a moment later."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import ClassVar

from headrace import Call, Duration, Failure, Next, Others, Reply, UpstreamError, meant

_SILENCE = ("connect_timeout", "first_byte_timeout", "idle_timeout")
"""Failures that have taken their time, and would again."""


@dataclass(kw_only=True)
class Retry:
    """Ask the same target again when it may do better a moment later.

    The wait doubles from one time to the next, and a random part of it is taken ("full jitter",
    aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter), so that clients do not come
    back all at once. What the upstream asks for in `Retry-After` is waited for in any case; where
    that is more than `longest`, or than the call has left, the failure stands. Where another target
    is asked instead, no `Retry-After` is waited for, and no silence repeated.
    """

    attempts: int = 2
    """How often a target is asked at most, the first time included.

    All targets together are asked no more often than `server: {attempts: …}` says."""
    wait: Duration = field(default_factory=lambda: Duration(0.2))
    """The longest wait before the second time; it doubles from there."""
    longest: Duration = field(default_factory=lambda: Duration(10))
    """No wait is longer than this."""
    when: list[Failure] | None = None
    """Failures after which the target is asked again, and no others; else those that may be over a
    moment later: 408, 409, 429, 5xx, and whatever is no answer."""

    keeps_answers: ClassVar = True

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts must be at least 1, found {self.attempts}")

    async def __call__(self, call: Call, call_next: Next) -> Reply:
        """Ask until it answers, or until asking again is of no use."""
        for made in range(1, self.attempts):
            try:
                return await call_next(call)
            except UpstreamError as error:
                wait = self._wait(made, error)
                again = meant(self.when, error, else_=error.again)
                too_long = wait > min(self.longest, call.deadline.left())
                if not again or too_long or _for_others(call, error):
                    raise
            with call.record.waiting():
                await asyncio.sleep(wait)
        return await call_next(call)

    def _wait(self, made: int, error: UpstreamError) -> float:
        """Seconds to wait after `made` tries."""
        most = min(self.longest, self.wait * 2 ** (made - 1))
        drawn = random.uniform(0, most)  # noqa: S311  no secret depends on it
        return max(drawn, error.retry_after or 0)


def _for_others(call: Call, error: UpstreamError) -> bool:
    """Whether asking here again takes long, while somebody else can be asked at once."""
    takes_long = error.retry_after or error.code in _SILENCE
    others = call.told(Others)
    return bool(takes_long and others and others.asked_after(error))
