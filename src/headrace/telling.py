"""What the headers of a response tell: who answered, how often it was tried, when to come back."""

from __future__ import annotations

import math

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
        if record.instead and record.asked:
            headers["x-headrace-instead-of"] = record.asked
    if (overhead := record.overhead) is not None:
        headers["x-headrace-overhead-ms"] = f"{overhead * 1000:.1f}"
    return headers


def hints(error: CallError, attempts: int) -> dict[str, str]:
    """When to come back, and that the SDK need not repeat what was repeated here."""
    hints: dict[str, str] = {}
    if isinstance(error, UpstreamError):
        if error.retry_after:
            hints["retry-after"] = str(math.ceil(error.retry_after))
            hints["retry-after-ms"] = str(math.ceil(error.retry_after * 1000))
        if attempts > 1:
            hints["x-should-retry"] = "false"
    return hints
