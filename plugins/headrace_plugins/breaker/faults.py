"""Which failures are the upstream's own, and what they are called in a log."""

from __future__ import annotations

import math
from collections.abc import Sequence

from headrace import Call, Failure, TimedOut, UpstreamError, meant


def is_fault(error: UpstreamError | TimedOut, meaning: Sequence[Failure] | None) -> bool:
    """Whether `error` says that the upstream is not well.

    What a client can bring about does not: a fault of its own, a model that is not there, a loop.
    """
    if not isinstance(error, UpstreamError):  # it was silent until the call's time was over
        error = UpstreamError(error.message, code="total_timeout", status=error.status)
    return meant(meaning, error, else_=error.status >= 500 and error.said != 508)


def is_impatience(error: UpstreamError | TimedOut, call: Call, waited: float) -> bool:
    """Whether it was the client that waited no longer for a stream to begin.

    The OpenAI SDK tells its own time-out along, which may be shorter than the upstream's.
    """
    asked = call.headers.get("x-stainless-read-timeout", "")
    patience = float(asked) if asked.replace(".", "", 1).isdecimal() else math.inf
    return error.code == "first_byte_timeout" and waited > 0.99 * max(1.0, patience)


def named(error: UpstreamError | TimedOut) -> str:
    """A failure in a word or two, none of them an upstream's."""
    said = error.said if isinstance(error, UpstreamError) else None
    return f"HTTP {said}" if said else error.code or "no answer"
