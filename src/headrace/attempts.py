"""Around every forwarder: one attempt, counted, bounded, read and recorded.

Here rule 1 is kept: an attempt returns when the first real output is in hand, so that everything
above it, plain or streamed, may still try again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from headrace.budget import Account, Budget
from headrace.call import PASSTHROUGH, Call, Limits, Patience, Provider, Timeouts, leaves
from headrace.caller import who_asks
from headrace.chain import Next, Plugin, compose
from headrace.errors import CallError, TimedOut, Unsupported, UpstreamError, scrubbed
from headrace.prices import PriceList
from headrace.reading import Reading, first_of, reading_of
from headrace.record import Attempt
from headrace.reply import Event, Reply
from headrace.rests import Rests, place_of, resting

_LONGEST_REST = 60.0
"""Seconds for which a target is asked after others at most because it asked to wait."""
_NEVER_SENT = ("dns_failed", "connect_failed", "connect_timeout", "tls_failed", "upstream_resting")
_AFTER_END = 0.05
"""Seconds for the end of the body to follow the end of the stream, so the connection is kept."""


@dataclass(frozen=True, kw_only=True)
class Upstream:
    """A server that can answer, as the configuration describes it."""

    name: str
    forward: Next
    plugins: tuple[Plugin, ...] = ()
    """For calls to this upstream, around its attempts."""
    brought: tuple[Plugin, ...] = ()
    """What the forwarder brings along, such as a change of dialect; inside each attempt."""
    models: Mapping[str, str] = field(default_factory=dict)
    """What a model is called there."""
    labels: Mapping[str, str] = field(default_factory=dict)
    timeouts: Timeouts = Timeouts()
    ask_usage: bool = True
    """Whether a stream is asked for its usage when the client did not."""
    fingerprint: str = ""
    """Another one for another forwarder, plugins or models behind the same name."""
    budget: Budget = field(default_factory=Budget)
    """How often it is asked after others, or after itself, have failed."""
    secrets: tuple[str, ...] = ()
    """What must never be shown of what it says."""
    address: str = ""
    """Where it is; what it says of its own host is not shown either."""
    provider: Provider = Provider()
    """Whose it is."""
    prices: PriceList = PriceList({})
    """What its models cost."""


class Attempts:
    """The end of every chain: asks the first target of the call, through its upstream's plugins.

    `most` attempts may be made for one call, retries and other targets included. What `rests`
    knows as closed is not asked, and that is no attempt.
    """

    def __init__(
        self,
        upstreams: Mapping[str, Upstream],
        *,
        most: int = 3,
        limits: Limits = Limits(),
        rests: Rests | None = None,
    ) -> None:
        self._most = most
        self._limits = limits
        self._rests = rests or Rests()
        self._budgets = {name: upstream.budget for name, upstream in upstreams.items()}
        self._asking = {
            name: compose(upstream.plugins, partial(self.attempt, upstream))
            for name, upstream in upstreams.items()
        }

    async def __call__(self, call: Call) -> Reply:
        """Ask the best target. Raises `UpstreamError` where it fails before its first output."""
        target = next(leaves(call.targets))
        return await self._asking[target.upstream](call.towards(target))

    async def attempt(self, upstream: Upstream, call: Call) -> Reply:
        """Ask one upstream once, its own plugins left out. Raises as a call does."""
        record = call.record
        if len(record.attempts) >= self._most:
            raise _used_up(record.attempts)
        if not call.deadline.left():
            raise TimedOut("the time for this call is over")
        target = next(leaves(call.targets))
        if (rest := self._rests.of(target, call)) and rest.closed:
            raise resting(target, call, rest.left)
        account = upstream.budget.at(place_of(target, call), call.operation)
        payer = self._pays(call, account)
        attempt = Attempt(target=target)
        record.attempts.append(attempt)
        told = call.telling(attempt, upstream.timeouts, self._limits, upstream.provider)
        well: bool | None = None
        try:
            reply = await compose(call.each_attempt, partial(self._once, upstream, attempt))(told)
            well = True
            return reply
        except UpstreamError as error:
            error.scrub(upstream.secrets, address=upstream.address)
            attempt.error = error
            attempt.status = error.said or attempt.status
            attempt.end("failed")
            if not isinstance(error, Unsupported):  # else it was not asked
                # A client's fault says nothing: others may fail all the while.
                well = False if error.again or error.status >= 500 else None
            if error.retry_after:
                wait = min(error.retry_after, _LONGEST_REST)
                self._rests.rest(place_of(target, call), wait, why="it asked to wait")
            if not _may_repeat(call, error):
                raise error.final() from error
            raise
        except asyncio.CancelledError:
            attempt.end("cancelled")
            raise
        except BaseException:
            attempt.end("failed")
            well = False
            raise
        finally:
            account.ended(payer, who_asks(call), well=well)

    def _pays(self, call: Call, asked: Account) -> Account | None:
        """Who pays for one more attempt of a call of which one has failed; None for a first one.

        Raises `UpstreamError` where there is nothing left.
        """
        attempts = call.record.attempts
        if not any(attempt.outcome == "failed" for attempt in attempts):
            asked.first()
            return None
        first = attempts[0].target
        payer = self._budgets[first.upstream].at(place_of(first, call), call.operation)
        if not payer.pays(asked, who_asks(call)):
            raise _over_budget(attempts)
        return payer

    async def _once(self, upstream: Upstream, attempt: Attempt, call: Call) -> Reply:
        sent = call
        if call.operation != PASSTHROUGH:
            model = attempt.target.model or call.dialect.asked(call)
            attempt.asked = attempt.model = upstream.models.get(model, model)
            attempt.price = upstream.prices.of(model, attempt.asked)
            sent = call.dialect.towards(call, attempt.model)
            if upstream.ask_usage:
                sent = call.dialect.asking_usage(sent)
        reading = reading_of(call)
        ask = compose(upstream.brought, upstream.forward)
        patience, left = _patience(reading, upstream, call), call.deadline.left()
        try:
            async with asyncio.timeout(min(patience, left)):
                reply = await ask(sent)
                attempt.status = reply.status
                held = await first_of(reading, reply)
        except TimeoutError:
            raise _silent(left <= patience) from None
        finally:
            _note(reading, attempt)
        attempt.first_output = time.monotonic()
        attempt.model = reading.model or attempt.model
        for name, value in reply.headers.items():
            if (shown := scrubbed(value, upstream.secrets)) != value:
                reply.headers[name] = shown
        reply.attempt = attempt
        reply.deadline = call.deadline
        reply.on_close(partial(_settle, reading, attempt))
        return reply.through(lambda events: _rest(upstream, attempt, reading, held, events))


async def _rest(
    upstream: Upstream,
    attempt: Attempt,
    reading: Reading,
    held: list[Event],
    events: AsyncIterator[Event],
) -> AsyncIterator[Event]:
    """What was held, then everything else; a failure is scrubbed and told as what it is."""
    try:
        for event in held:
            yield event
        async for event in events:
            reading.note(event)
            if reading.passes(event):
                yield event
            if reading.over:
                break
        for event in reading.complete():
            yield event
        attempt.end("ok")
        with suppress(TimeoutError, UpstreamError):
            # Most often the end of the body is there already, and the connection can be kept.
            async with asyncio.timeout(_AFTER_END):
                await anext(events, None)
    except UpstreamError as error:
        error.scrub(upstream.secrets, address=upstream.address)
        attempt.error = error
        attempt.end("incomplete")
        raise


async def _settle(reading: Reading, attempt: Attempt, error: BaseException | None) -> None:
    _note(reading, attempt)
    incomplete = isinstance(error, CallError)
    attempt.end("ok" if error is None else "incomplete" if incomplete else "cancelled")


def _note(reading: Reading, attempt: Attempt) -> None:
    attempt.usage, attempt.reply_id, attempt.finish = reading.usage, reading.id, reading.finish


def _patience(reading: Reading, upstream: Upstream, call: Call) -> float:
    """Seconds to wait for the first output.

    A plugin above may have less patience, but not with what nobody else can be asked for.
    """
    own, asked = reading.patience(upstream.timeouts), call.told(Patience)
    return min(own, asked.seconds) if asked and _repeatable(call) else own


def _repeatable(call: Call) -> bool:
    """Whether asking again does nothing twice: by itself, or by the client's key."""
    return call.idempotent or "idempotency-key" in call.headers


def _may_repeat(call: Call, error: UpstreamError) -> bool:
    """Whether asking again does nothing twice: it is repeatable, or was not sent."""
    unsent = error.code in _NEVER_SENT or isinstance(error, Unsupported)
    return unsent or _repeatable(call)


def _over_budget(attempts: list[Attempt]) -> UpstreamError:
    """The last failure once more: this upstream has failed too often to be asked beyond it."""
    errors = [attempt.error for attempt in attempts if attempt.error]
    last = errors[-1] if errors else None
    if last is None:
        return UpstreamError("too many calls have failed", code="retry_budget", again=False)
    return last.final(elsewhere=last.elsewhere)


def _used_up(attempts: list[Attempt]) -> UpstreamError:
    """The last failure once more, final this time."""
    if error := attempts[-1].error:
        return error.final()
    return UpstreamError(
        f"the {len(attempts)} attempts for this call are used up",
        code="attempts_used_up",
        again=False,
        elsewhere=False,
        decided=True,
    )


def _silent(is_over: bool) -> CallError:
    if is_over:
        return TimedOut("no upstream answered in the time for this call")
    return UpstreamError(
        "the upstream did not begin to answer in time", code="first_byte_timeout", status=504
    )
