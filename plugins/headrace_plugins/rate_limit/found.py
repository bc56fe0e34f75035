"""What was left of a limit when a call came: as the store answers, and as others are told."""

from __future__ import annotations

import math
from typing import NamedTuple

from headrace import Allowance
from headrace_plugins.rate_limit.bucket import SLACK, Answer
from headrace_plugins.rate_limit.policies import Limit

_FOR_A_SLOT = 1.0


class Left(NamedTuple):
    """What was left of one of the things that a limit counts."""

    counts: str
    amount: float
    period: float | None
    there: float
    wanted: float
    reset: float | None
    """Seconds until all of it is there."""
    pace: float = 0
    """Seconds until one more is there."""
    wait: float = 0
    """Seconds until what is wanted is there; of a slot nobody can tell, so it is a guess."""

    def without(self, taken: float) -> tuple[int, float | None]:
        """How much there is, and seconds until all of it is, once so much has been taken."""
        reset = None if self.reset is None else round(self.reset + taken * self.pace, 3)
        return max(0, int(self.there - taken + SLACK)), reset


class Found(NamedTuple):
    """What was left of a limit, and whether it was enough."""

    limit: Limit
    fits: bool
    left: tuple[Left, ...]

    @classmethod
    def in_buckets(cls, limit: Limit, answer: Answer) -> Found:
        """What the step `take` answers."""
        fits, _, running, *levels = answer
        left = []
        for bucket, level in zip(limit.rule.buckets, levels, strict=True):
            wanted = limit.tokens if bucket.counts == "tokens" else 1
            pace = bucket.period / bucket.amount
            lacks = wanted - level if 0 < wanted > level + SLACK else 0
            reset = (bucket.capacity - level) * pace
            most = max(bucket.amount, bucket.capacity)  # as many as may come at once
            told = Left(
                bucket.counts, most, bucket.period, level, wanted, reset, pace, lacks * pace
            )
            left.append(told)
        if (slots := limit.rule.slots) is not None:
            wait = 0 if running < slots else _FOR_A_SLOT
            left.append(Left("concurrent", slots, None, slots - running, 1, None, wait=wait))
        return cls(limit, bool(fits), tuple(left))

    @property
    def is_used(self) -> bool:
        """Whether anything was counted that matters still."""
        return any(left.reset if left.pace else left.there < left.amount for left in self.left)

    def allowances(self, *, taken: bool) -> list[Allowance]:
        """What is left, once the call has taken what it wanted, or has been refused."""
        allowances = []
        for left in self.left:
            remaining, reset = left.without(left.wanted if taken else 0)
            allowances.append(
                Allowance(
                    policy=self.limit.policy,
                    counts=left.counts,
                    limit=math.ceil(left.amount),
                    per=left.period,
                    remaining=remaining,
                    reset=reset,
                )
            )
        return allowances
