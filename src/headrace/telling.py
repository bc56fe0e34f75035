"""What the headers of a response tell: who answered, how often it was tried, when to come back."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator

from headrace.call import Target
from headrace.errors import CallError, UpstreamError
from headrace.record import Cached, Record

_MOST_TIMINGS = 8


def telling(record: Record) -> dict[str, str]:
    """The headers that say what happened, on every response."""
    headers = {"x-request-id": record.id, "x-headrace-attempts": str(len(record.attempts))}
    if told := record.named:
        headers["x-headrace-upstream"] = told.target.upstream
        if told.model:
            headers["x-headrace-model"] = told.model[:256]
        if record.asked and record.instead:
            headers["x-headrace-instead-of"] = record.asked
    if record.cache:
        headers |= _cached(record.cache)
    if (overhead := record.overhead) is not None:
        headers["x-headrace-overhead-ms"] = f"{overhead * 1000:.1f}"
        headers["server-timing"] = ", ".join(_timings(record, overhead))
    return headers


def _cached(cached: Cached) -> dict[str, str]:
    """What a cache made of it, by RFC 9211 and in one word; `Age` is RFC 9111's."""
    said = {
        "hit": "hit",
        "stale": "hit",
        "shared": "fwd=miss; collapsed",
        "miss": "fwd=miss",
        "bypass": "fwd=bypass",
    }[cached.status]
    if cached.fwd:
        said = f"fwd={cached.fwd}"
    if cached.stored:
        said += "; stored"
    elif cached.ttl is not None:
        said += f"; ttl={math.floor(cached.ttl)}"
    headers = {"x-headrace-cache": cached.status, "cache-status": f"headrace; {said}"}
    if cached.age is not None:
        headers["age"] = str(math.floor(cached.age))
    return headers


def tried(record: Record) -> list[dict[str, object]]:
    """The attempts of a call that failed, as its client is told: who, how it ended, how long."""
    return [
        {
            "upstream": attempt.target.upstream,
            "model": attempt.model,
            "outcome": attempt.outcome,
            "status": attempt.status,
            "code": attempt.error.code if attempt.error else None,
            "seconds": round((attempt.ended or time.monotonic()) - attempt.started, 3),
        }
        for attempt in record.attempts
    ]


def _timings(record: Record, overhead: float) -> Iterator[str]:
    """What took how many milliseconds to the first byte (w3.org/TR/server-timing)."""
    yield f"gateway;dur={overhead * 1000:.1f}"
    for number, attempt in enumerate(record.attempts[:_MOST_TIMINGS], 1):
        until = attempt.first_output or attempt.ended or record.first_byte or attempt.started
        took = (until - attempt.started) * 1000
        said = f"{attempt.target.upstream} {attempt.outcome or 'ok'}"
        yield f'attempt-{number};desc="{_quoted(said)}";dur={took:.1f}'


def _quoted(text: str) -> str:
    """Text inside a quoted string of a header (RFC 9110, 5.6.4)."""
    return text.replace("\\", "\\\\").replace('"', '\\"')


def hints(error: CallError, record: Record) -> dict[str, str]:
    """When to come back, and that the SDK need not repeat what was repeated here.

    Of several targets that asked to wait, the one that is free first counts.
    """
    hints: dict[str, str] = {}
    if len(record.attempts) > 1:
        hints["x-should-retry"] = "false"
    waits = _waits(record).values()
    if waits and isinstance(error, UpstreamError) and error.status in (429, 503):
        wait = max(0.001, min(waits))
        hints["retry-after"] = str(math.ceil(wait))
        hints["retry-after-ms"] = str(math.ceil(wait * 1000))
    return hints


def _waits(record: Record) -> dict[Target, float]:
    """Seconds until each target that rests, or asked to wait the last time, can be asked."""
    now = asyncio.get_running_loop().time()
    waits = {target: until - now for target, until in record.resting.items()}
    last = {attempt.target: attempt for attempt in record.attempts}
    for target, attempt in last.items():
        if attempt.error and attempt.error.retry_after and attempt.ended:
            wait = attempt.error.retry_after - (time.monotonic() - attempt.ended)
            waits[target] = max(wait, waits.get(target, wait))
    return waits
