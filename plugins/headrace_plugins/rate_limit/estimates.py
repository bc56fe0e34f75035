"""How many tokens a call may use, before it is asked, and how many it used, when it is over."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from headrace import PASSTHROUGH, Attempt, BadRequest, Call, CallError, TimedOut, Usage

_BYTES_PER_TOKEN = 4
_FILES = re.compile(
    rb'"data:[\w.+/;=-]{1,200},[A-Za-z0-9+/=_-]{64,}+"'  # RFC 2397, as images come
    rb'|"data":\s?"[A-Za-z0-9+/=_-]{64,}+"'  # as `input_audio` and files come
)
"""Images, sound and files in a body: texts of base64 and of nothing else."""
_TOKENS_OF_A_FILE = 1000
_SILENCE = ("first_byte_timeout", "idle_timeout")
"""What it is called when a call was sent, and its answer was waited for in vain."""
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
    prompt = _prompt(call.body)
    if call.operation == "embedding":
        return Estimate(prompt)
    bounds = (_number(members.get(n)) for n in ("max_completion_tokens", "max_tokens"))
    longest = max(filter(None, bounds), default=answer)
    answers = max(filter(None, (_number(members.get(n)) for n in ("n", "best_of"))), default=1)
    return Estimate(prompt, min(_MOST, longest * answers * _prompts(members.get("prompt"))))


class Used(NamedTuple):
    """Tokens that were used, and whether an upstream has not counted all of them."""

    tokens: int
    estimated: bool


def may_have_cost(attempt: Attempt, error: CallError) -> bool:
    """Whether a failed attempt has to be paid: it was sent, and neither refused nor lost."""
    silent = isinstance(error, TimedOut) or error.code in _SILENCE
    return silent or attempt.usage is not None


def used(attempts: Sequence[Attempt], estimated: Estimate, reserved: int, *, streams: bool) -> Used:
    """What all attempts used; one that answered used what was `reserved` of all it did not say.

    One that was not waited for used the prompt. Where it was not left for another one's answer, and
    would have had its own all at once, that was being written: it used what was `reserved`, too.
    """
    unsaid = max(0, reserved - estimated.input)
    total = told = 0
    for attempt in attempts:
        usage, answered = attempt.usage or Usage(), attempt.first_output is not None
        total += estimated.input if usage.input is None else usage.input
        total += (unsaid if answered else 0) if usage.output is None else usage.output
        told += (usage.input or 0) + (usage.output or 0)
    nobody_answered = all(attempt.first_output is None for attempt in attempts)
    if nobody_answered and not streams and any(attempt.usage is None for attempt in attempts):
        total += unsaid
    guessed = any(attempt.usage and attempt.usage.estimated for attempt in attempts)
    return Used(total, guessed or total != told)


def _prompt(body: bytes) -> int:
    """The tokens of a JSON body: of its text by the bytes, of a file never more than so many."""
    files = [len(found[0]) for found in _FILES.finditer(body)]
    of_files = sum(min(_TOKENS_OF_A_FILE, size // _BYTES_PER_TOKEN) for size in files)
    return math.ceil((len(body) - sum(files)) / _BYTES_PER_TOKEN) + of_files


def _prompts(prompt: Any) -> int:
    """How many prompts a completion has: a list of texts, or of lists of tokens, has several."""
    several = isinstance(prompt, list) and any(isinstance(each, str | list) for each in prompt)
    return len(prompt) if several else 1


def _number(value: Any) -> int | None:
    """A member that counts something, if it is a number that makes sense."""
    sensible = isinstance(value, int) and not isinstance(value, bool) and value > 0
    return min(value, _MOST) if sensible else None
