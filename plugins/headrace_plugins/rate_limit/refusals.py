"""What callers are told who are not let in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from headrace import CallError, Duration, Overloaded, RateLimited, UpstreamError
from headrace_plugins.rate_limit.found import Found
from headrace_plugins.rate_limit.policies import Limit
from headrace_plugins.rate_limit.telling import lasting

_UNITS: Mapping[float, str] = {1: "second", 60: "minute", 3600: "hour", 86400: "day"}


def used_up(refusing: Sequence[Found]) -> CallError:
    """Which limit it is, and when to come back: when the last of them has what is wanted."""
    pairs = [(each.limit, left) for each in refusing for left in each.left]
    limit, left = max(pairs, key=lambda pair: pair[1].wait)
    name = f"the limit {limit.policy!r} of {_amount(left.counts, left.amount, left.period)}"
    soon = f"{left.wait:.1f} s" if left.wait < 60 else lasting(left.wait)
    match left.counts:
        case "concurrent":
            said = f"{name} is used up; come back when one of them is over"
        case "tokens":
            there, wanted = f"{max(0, int(left.there)):,}", f"{int(left.wanted):,}"
            said = f"{name} has {there} left; this call may take {wanted}, so come back in {soon}"
        case _:
            said = f"{name} is used up; come back in {soon}"
    headers = {
        "retry-after": str(max(1, math.ceil(left.wait))),
        "retry-after-ms": str(max(1, math.ceil(left.wait * 1000))),
    }
    return _refused(limit, said, headers, left.wait)


def too_large(limit: Limit, tokens: int) -> CallError:
    """Of what is wanted there is never so much, so there is nothing to wait for."""
    such = [bucket for bucket in limit.rule.buckets if bucket.counts == "tokens"]
    smallest = min(such, key=lambda bucket: bucket.capacity)
    said = (
        f"what this call sends is about {tokens:,} tokens; the limit {limit.policy!r} of "
        f"{_amount(*smallest[:3])} never has so many, so send less at a time"
    )
    return _refused(limit, said, {"x-should-retry": "false"}, None)


def not_counted() -> CallError:
    """The store does not answer, and nobody is to be let in without it."""
    return Overloaded(
        "calls cannot be counted at the moment, and this gateway lets nobody in uncounted; "
        "try again in a moment",
        code="limiter_unavailable",
        headers={"retry-after": "1"},
    )


def _refused(limit: Limit, said: str, headers: Mapping[str, str], wait: float | None) -> CallError:
    if not limit.of_upstream:
        return RateLimited(said, code="rate_limit_exceeded", headers=headers)
    return UpstreamError(  # as if the upstream had refused, so that another one may answer
        said,
        code="rate_limit_exceeded",
        status=429,
        headers=headers,
        retry_after=wait,
        again=wait is not None,
    )


def _amount(counts: str, amount: float, period: float | None) -> str:
    """Such as: 600 requests per minute."""
    number = math.ceil(amount)
    if period is None:
        return f"{number:,} call{'' if number == 1 else 's'} at the same time"
    what = counts.removesuffix("s") if number == 1 else counts
    return f"{number:,} {what} per {_UNITS.get(period) or Duration(period)}"
