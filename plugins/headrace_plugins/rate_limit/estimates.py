"""How many tokens a call may use, before it is asked, and how many it used, when it is over."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from headrace import PASSTHROUGH, Attempt, BadRequest, Call

_BYTES_PER_TOKEN = 4
_MARKS = (b";base64,", b'"data":"', b'"data": "')
"""What images, sound and files in a body begin with, in data URLs and as `input_audio`."""
_MOST_FILES = 100
_MOST = 10**9


class Estimate(NamedTuple):
    """Tokens of a prompt, and of the answers to it."""

    input: int = 0
    output: int = 0


def estimate(call: Call, answer: int) -> Estimate:
    """What a call may use; `answer` stands for the length of an answer that has no bound."""
    if call.operation == PASSTHROUGH or call.method != "POST":
        return Estimate()
    try:
        members = call.members
    except BadRequest:
        return Estimate()  # the router says what is wrong
    prompt = math.ceil(_text(call.body) / _BYTES_PER_TOKEN)
    if call.operation == "embedding":
        return Estimate(prompt)
    bounds = (_number(members.get(n)) for n in ("max_completion_tokens", "max_tokens"))
    longest = next(filter(None, bounds), answer)
    return Estimate(prompt, min(_MOST, longest * (_number(members.get("n")) or 1)))


def used(attempts: Iterable[Attempt], estimated: Estimate, reserved: int) -> int:
    """What all attempts used; one that answered and did not say used what was `reserved`."""
    total = 0
    for attempt in attempts:
        usage = attempt.usage
        if usage is not None:
            total += estimated.input if usage.input is None else usage.input
            total += usage.output or 0
        elif attempt.first_output is not None:
            total += reserved
    return total


def _text(body: bytes) -> int:
    """How many bytes of a JSON body are text, in no more time than it takes to look through it."""
    size = len(body)
    for mark in _MARKS:
        at = 0
        for _ in range(_MOST_FILES):
            start = body.find(mark, at)
            if start < 0:
                break
            at = body.find(b'"', start + len(mark))
            size -= at - start
    return size


def _number(value: Any) -> int | None:
    """A member that counts something, if it is a number that makes sense."""
    sensible = isinstance(value, int) and not isinstance(value, bool) and value > 0
    return min(value, _MOST) if sensible else None
