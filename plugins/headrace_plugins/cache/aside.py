"""Work that goes on without the call it was begun for: observers are told of it when it ends."""

from __future__ import annotations

import asyncio
import time

from headrace import CallError, Observers, Record
from headrace_plugins.cache.flight import Flight
from headrace_plugins.cache.question import Question


def written_down(asking: Question, flight: Flight) -> None:
    """Tell observers, now that the work is over, what the call's own record has not told them."""
    record, observers = _record(asking), asking.call.told(Observers)
    if observers is None or not record.attempts:
        return
    error = flight.error
    if isinstance(error, CallError):
        record.code, record.said = error.code, error.for_log
    if error is None:
        record.close("ok")
    elif isinstance(error, asyncio.CancelledError):
        record.close("client_closed")
    else:
        record.close("incomplete" if flight.reply else "failed")
    observers.tell(record)


def _record(asking: Question) -> Record:
    """The record of work for nobody; else one of what ended after the call's own was told."""
    own = asking.call.record
    if own.aside:
        return own
    record = own.beside()
    record.cache = asking.note
    if told := own.told:
        record.attempts += [each for each in own.attempts if each.ended and each.ended > told]
        own.told = time.monotonic()
    return record
