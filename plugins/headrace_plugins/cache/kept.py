"""What becomes of an answer that has come to its end: kept, or why not."""

from __future__ import annotations

from collections.abc import Iterator

from headrace import Call
from headrace_plugins.cache.control import directives
from headrace_plugins.cache.flight import Flight
from headrace_plugins.cache.stored import Part, Stored, kept_headers, part_of

_BLOCKED = ("content_filter", "error")
"""Finishes of answers that somebody would not give."""


def why_not_kept(flight: Flight) -> str:
    """Why an answer is not to be kept; nothing where it is complete and good."""
    reply = flight.reply
    if reply is None or not flight.whole:
        return "too large"
    if reply.status != 200:
        return f"status {reply.status}"
    if reply.attempt and reply.attempt.outcome != "ok":
        return "incomplete"
    if {"no-store", "private"} & directives(reply.headers.get("cache-control", "")).keys():
        return "no-store"
    finishes = set(flight.finishes.values())
    if None in finishes and len(finishes) > 1:  # of several choices, some have their end
        return "incomplete"
    return next((finish for finish in _BLOCKED if finish in finishes), "")


def answer_of(flight: Flight, call: Call, *, at: float) -> Stored:
    """An answer that is whole, as it is kept; it ended at `at`."""
    assert flight.reply
    return Stored(
        at=at,
        framing=flight.framing,
        parts=list(_parts(flight, call)),
        status=flight.reply.status,
        headers=kept_headers(flight.reply),
        usage=flight.usage,
    )


def _parts(flight: Flight, call: Call) -> Iterator[Part]:
    began: float | None = None
    for event, time in zip(flight.events, flight.times, strict=True):
        began = time if began is None else began
        if part := part_of(event, time - began, flight.framing, call.dialect):
            yield part
