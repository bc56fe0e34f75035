"""What the headers of a response tell: who answered, how often it was tried, when to come back."""

from __future__ import annotations

import math
import time

from headrace.errors import CallError, UpstreamError
from headrace.record import Record


def telling(record: Record) -> dict[str, str]:
    """The headers that say what happened, on every response."""
    headers = {"x-request-id": record.id, "x-headrace-attempts": str(len(record.attempts))}
    told = record.answered or (record.attempts[-1] if record.attempts else None)
    if told:
        headers["x-headrace-upstream"] = told.target.upstream
        if told.model:
            headers["x-headrace-model"] = told.model[:256]
        if record.asked and record.instead:
            headers["x-headrace-instead-of"] = record.asked
    if (overhead := record.overhead) is not None:
        headers["x-headrace-overhead-ms"] = f"{overhead * 1000:.1f}"
    return headers


def hints(error: CallError, record: Record) -> dict[str, str]:
    """When to come back, and that the SDK need not repeat what was repeated here.

    Of several upstreams that asked to wait, the one that is free first counts.
    """
    hints: dict[str, str] = {}
    if len(record.attempts) > 1:
        hints["x-should-retry"] = "false"
    waits = [
        attempt.error.retry_after - (time.monotonic() - attempt.ended)
        for attempt in record.attempts
        if attempt.error and attempt.error.retry_after and attempt.ended
    ]
    if waits and isinstance(error, UpstreamError):
        wait = max(0.001, min(waits))
        hints["retry-after"] = str(math.ceil(wait))
        hints["retry-after-ms"] = str(math.ceil(wait * 1000))
    return hints
