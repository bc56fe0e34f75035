"""One answer to many who ask the same at the same time."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial

from headrace import (
    PASSTHROUGH,
    Cached,
    Call,
    CallError,
    Overloaded,
    Reply,
    TimedOut,
    UpstreamError,
    WithUsage,
    shielded,
)
from headrace_plugins.cache.aside import written_down
from headrace_plugins.cache.batch import answers_of
from headrace_plugins.cache.elsewhere import elsewhere
from headrace_plugins.cache.flight import Flight, Outgrown, Reader, same
from headrace_plugins.cache.flights import CLOSING, Flights
from headrace_plugins.cache.kept import answer_of, why_not_kept
from headrace_plugins.cache.large import worked
from headrace_plugins.cache.question import Leading, Question
from headrace_plugins.cache.replay import replayed, told
from headrace_plugins.cache.shelf import Shelf
from headrace_plugins.cache.stored import Stored, forms, kept_headers

logger = logging.getLogger("headrace.cache")

_LATE = 1.0
_HANDED_OVER = 3
"""So many may fail before the first output, one after the other, until all who wait are told."""


@dataclass(kw_only=True)
class Sharing:
    """Asks each question once for all who ask it meanwhile, if `many`, and keeps the answer."""

    shelf: Shelf
    many: bool
    wait: float
    """How long to wait for another replica."""
    _flights: Flights = field(default_factory=Flights)

    async def aclose(self) -> None:
        """Leave nothing running."""
        await self._flights.aclose()

    def joins(self, asking: Question) -> bool:
        """Whether the answer is being given to another, and none is kept meanwhile."""
        flight = None if asking.control.no_cache else self._flights.get(asking.key)
        return flight is not None and flight.first

    async def share(self, asking: Question) -> Reply:
        """The answer that is being given to another, or that this call asks for."""
        failed = 0
        while True:
            joins = failed or not asking.control.no_cache
            flight = self._flights.get(asking.key) if joins else None
            leads = flight is None
            if flight is None:
                flight = self._begin(asking)
            reader = flight.join()
            try:
                return await self._listen(flight, reader, asking, leads=leads)
            except BaseException as error:
                await shielded(flight.leave(reader, leads=leads))
                failed += 1
                if leads or not _handed_over(flight, error, failed):
                    raise

    def refresh(self, asking: Question) -> None:
        """See to it that there is a new answer soon; nobody waits for it."""
        if not self._flights.renews(asking.key):
            self._begin(asking.again(), alone=True)

    # Listening

    async def _listen(
        self, flight: Flight, reader: Reader, asking: Question, *, leads: bool
    ) -> Reply:
        call = asking.call
        try:
            # Who leads has its time at the upstream, and this one for the case that nobody ends it.
            with nullcontext() if leads else call.record.waiting():
                async with asyncio.timeout(call.deadline.left() + (_LATE if leads else 0)):
                    await flight.begun()
                    if other := flight.reply is not None and _other_form(flight, call):
                        await flight.ended(reader)
        except TimeoutError:
            raise TimedOut("the time for this call is over") from None
        if flight.reply is None:
            assert flight.error
            raise flight.error if leads else same(flight.error)
        if not leads:
            asking.written(Cached(status="shared"))
        if other:
            await flight.leave(reader)
            asking.note.saved = flight.usage
            reply = replayed(await self._turned(flight, call), call)
            reply.cached = asking.note
            return reply
        return _heard(flight, flight.reply, reader, asking, leads=leads)

    async def _turned(self, flight: Flight, call: Call) -> Stored:
        """All of an answer in the form that this call wants; made once for all who want it."""
        at = self.shelf.now()

        def turn() -> Stored:
            return answer_of(flight, call, at=at).as_asked(call)

        async with flight.turning:
            if flight.turned is None:
                flight.turned = await worked(flight.size, turn)
        return flight.turned

    # Asking

    def _begin(self, asking: Question, *, alone: bool = False) -> Flight:
        """Ask, in a task of its own; `alone`, for nobody who listens."""
        return self._flights.begin(
            asking,
            partial(self._work, asking, alone=alone),
            largest=self.shelf.largest,
            shared=self.many,
            alone=alone,
        )

    async def _work(self, asking: Question, flight: Flight, *, alone: bool) -> None:
        """Ask for the answer, and keep it once those who listen have its end."""
        try:
            async with AsyncExitStack() as held:
                # Who listens gives up by itself; where nobody does, this has to.
                async with asyncio.timeout(asking.call.deadline.left() if alone else None):
                    found = await self._elsewhere(asking, held)
                    await flight.feed(self._source(asking, found))
                if found:
                    flight.end()
                    return
                why = why_not_kept(flight) or ("" if asking.stores else asking.note.why)
                asking.note.why, asking.note.stored = why or asking.note.why, not why
                flight.end()
                if not why:
                    await self._keep(flight, asking)
        except asyncio.CancelledError:
            flight.end(Overloaded("this gateway is shutting down", code=CLOSING))
            raise
        except TimeoutError:
            flight.end(TimedOut("the time for this call is over"))
        except Exception as error:  # told to all who listen
            flight.end(error)
            if alone and not isinstance(error, CallError | Outgrown):
                logger.exception("asking for a new answer failed")
        finally:
            written_down(asking, flight)

    async def _elsewhere(self, asking: Question, held: AsyncExitStack) -> Stored | None:
        """What another replica was answered meanwhile."""
        alone = not (self.shelf.store.shared and self.many and asking.stores)
        if alone or asking.control.no_cache or asking.batch:
            return None
        wait = min(self.wait, asking.call.deadline.left())
        return await elsewhere(asking, self.shelf, held, wait=wait)

    async def _source(self, asking: Question, found: Stored | None) -> Reply:
        """The reply to read: what was found elsewhere, else what is answered below."""
        if found is None:
            return await asking.call_next(asking.call.telling(WithUsage(), Leading(asking.key)))
        age = self.shelf.age(found)
        ttl = self.shelf.ttl - age
        asking.written(Cached(status="shared", age=age, ttl=ttl, saved=found.usage))
        return told(found, asking.call.dialect)

    async def _keep(self, flight: Flight, asking: Question) -> None:
        packed = await worked(flight.size, partial(self._packed, flight, asking, self.shelf.now()))
        for key, answer in packed:
            if why := await self.shelf.put(key, answer):
                asking.note.stored, asking.note.why = False, why
                return

    def _packed(self, flight: Flight, asking: Question, at: float) -> list[tuple[str, bytes]]:
        """What is to be kept of it, and under which keys."""
        if batch := asking.batch:
            answers = zip(batch.keys, answers_of(flight, batch, at=at), strict=False)
            return [(key, self.shelf.packed(answer)) for key, answer in answers]
        return [(asking.key, self.shelf.packed(answer_of(flight, asking.call, at=at)))]


def _heard(
    flight: Flight, source: Reply, reader: Reader, asking: Question, *, leads: bool
) -> Reply:
    """The answer as it comes."""
    reply = Reply(
        flight.read(reader, asking.call),
        status=source.status,
        headers=dict(source.headers.items()) if leads else kept_headers(source),
        framing=source.framing,
    )
    reply.cached = asking.note
    if leads:
        reply.attempt = source.attempt
        reply.cached = source.cached or asking.note

    async def left(error: BaseException | None) -> None:
        await flight.leave(reader, leads=leads)
        if not leads:
            asking.note.saved = flight.usage

    reply.deadline = asking.call.deadline
    return reply.on_close(left)


def _other_form(flight: Flight, call: Call) -> bool:
    """Whether it comes as a whole to one who wants a stream, or the other way round."""
    if call.operation == PASSTHROUGH or not forms(call):
        return False
    return (flight.framing == "sse") != call.dialect.streams(call)


def _handed_over(flight: Flight, error: BaseException, failed: int) -> bool:
    """Whether one who waited for the answer is to ask by itself."""
    if isinstance(error, Outgrown):
        return True
    if flight.reply or not flight.error or not isinstance(error, CallError):
        return False
    # The same refusal of the same question would come again.
    asked_wrong = isinstance(error, UpstreamError) and error.status < 500
    for_good = asked_wrong and error.status not in (408, 409, 429)
    return failed < _HANDED_OVER and not for_good and error.code != CLOSING
