"""The spans of a call and of its attempts: begun, carried on to the upstream, ended."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context, get_current
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers

from headrace import (
    Attempt,
    Call,
    CallError,
    Limited,
    Next,
    Provider,
    Reply,
    UpstreamError,
    Usage,
)
from headrace_plugins.tracing import names
from headrace_plugins.tracing.content import Answer, Pen, asked

_CARRIED = (b"traceparent", b"tracestate")
_W3C = TraceContextTextMapPropagator()  # and no baggage, which is nobody's business upstream
_LONGEST = 256
"""Characters of an attribute; what was asked and said has a limit of its own."""
_LARGEST = 2**63 - 1
"""The largest whole number of an attribute; a larger one would lose its whole batch."""


class _Lines(Getter[Headers]):
    """Reads headers."""

    def get(self, carrier: Headers, key: str) -> list[str] | None:
        return carrier.getlist(key) or None

    def keys(self, carrier: Headers) -> list[str]:
        return carrier.keys()


_LINES = _Lines()


@dataclass(frozen=True, kw_only=True)
class Calls:
    """A span around each call, to the last byte of its reply."""

    tracer: Tracer
    most: int
    """How many characters of what was asked, and of what was said, are told; 0 is none."""

    async def __call__(self, call: Call, call_next: Next) -> Reply:
        """Answer, and then tell what came of it."""
        span = _begun(self.tracer, call)
        if not span.is_recording():
            return await call_next(_carrying(call, span))
        parent = trace.set_span_in_context(span, Context())
        each = _Attempts(tracer=self.tracer, parent=parent, most=self.most)
        try:
            reply = await call_next(call.replace(each_attempt=(*call.each_attempt, each)))
        except BaseException as error:
            _ended(span, call, None, error)
            raise

        async def close(error: BaseException | None) -> None:
            _ended(span, call, reply, error)

        return reply.on_close(close)


def _begun(tracer: Tracer, call: Call) -> Span:
    """The span of a call, inside the span around it, else inside the client's own."""
    parent = get_current()
    around = trace.get_current_span(parent).get_span_context()
    if not around.is_valid:
        parent = _W3C.extract(call.headers, Context(), _LINES)
    kind = SpanKind.INTERNAL if around.is_valid and not around.is_remote else SpanKind.SERVER
    return tracer.start_span(_operation(call), parent, kind)


def _carrying(call: Call, span: Span) -> Call:
    """The call with a span as its trace context, in place of what the client sent."""
    carried: dict[str, str] = {}
    _W3C.inject(carried, trace.set_span_in_context(span, Context()))
    if not carried:
        return call
    kept = [line for line in call.headers.raw if line[0].lower() not in _CARRIED]
    own = [(name.encode(), value.encode("latin-1")) for name, value in carried.items()]
    return call.replace(headers=Headers(raw=[*kept, *own]))


def _ended(span: Span, call: Call, reply: Reply | None, error: BaseException | None) -> None:
    """Tell what came of a call, and end its span."""
    record = call.record
    if record.asked:
        span.update_name(f"{_operation(call)} {record.asked}")
    _tell(span, _of_call(call, reply))
    if error:
        _fail(span, error, ours=getattr(error, "status", 500) >= 500)
    span.end()


def _of_call(call: Call, reply: Reply | None) -> dict[str, Any]:
    record = call.record
    answered = reply.attempt if reply else None
    cached = (reply and reply.cached) or record.cache
    caller = record.caller
    return {
        names.OPERATION: names.OPERATIONS.get(call.operation),
        names.REQUEST_ID: record.id,
        names.REQUEST_MODEL: record.asked,
        names.CALLER: caller.name if caller else None,
        names.TENANT: caller.tenant if caller else None,
        names.ROUTE: record.route,
        names.UPSTREAM: answered.target.upstream if answered else None,
        names.ATTEMPTS: len(record.attempts),
        names.CACHE: cached.status if cached else None,
        **_of_limits([limited for limited in record.limits if not limited.dry_run]),
    }


def _of_limits(limits: list[Limited]) -> dict[str, Any]:
    """The worst of what limits have done, and which of them did it."""
    for outcome in ("refused", "unchecked", "admitted"):
        if found := [limited.policy for limited in limits if limited.outcome == outcome]:
            return {names.LIMIT: outcome, names.LIMITED_BY: found}
    return {}


# Its attempts


@dataclass(frozen=True, kw_only=True)
class _Attempts:
    """A span around each attempt of a call, inside the call's own."""

    tracer: Tracer
    parent: Context
    most: int

    async def __call__(self, call: Call, call_next: Next) -> Reply:
        """Ask with the attempt's span as the trace context."""
        attempt, provider = call.told(Attempt), call.told(Provider) or Provider()
        assert attempt
        begin = {
            **_of_request(call),
            names.PROVIDER: provider.name or None,
            names.UPSTREAM: attempt.target.upstream,
            names.ATTEMPT: len(call.record.attempts),
        }
        name = _operation(call)
        span = self.tracer.start_span(name, self.parent, SpanKind.CLIENT, attributes=_fit(begin))
        answer = self._told(span, call, provider)
        try:
            reply = await call_next(_carrying(call, span))
        except BaseException as error:
            _end(span, name, attempt, provider, error)
            raise
        if answer:
            reply.watch(answer.note)

        async def close(error: BaseException | None) -> None:
            if answer:
                span.set_attribute(names.OUTPUT_MESSAGES, answer.written(attempt.finish))
            _end(span, name, attempt, provider, error)

        return reply.on_close(close)

    def _told(self, span: Span, call: Call, provider: Provider) -> Answer | None:
        """Tell what is asked, where that is wanted, and be ready for what is said."""
        if not (self.most and span.is_recording() and call.operation in ("chat", "completion")):
            return None
        secrets = [*provider.secrets, *_shown(call)]
        span.set_attribute(names.INPUT_MESSAGES, asked(call, Pen(self.most, secrets)))
        return Answer(call.dialect, Pen(self.most, secrets))


def _shown(call: Call) -> Iterator[str]:
    """The keys that a client shows."""
    for name in ("authorization", "x-api-key", "api-key"):
        for value in call.headers.getlist(name):
            yield value.strip().rpartition(" ")[2]


def _of_request(call: Call) -> dict[str, Any]:
    if call.operation not in names.OPERATIONS:
        return {}
    members = call.members
    told = {
        name: members[member]
        for member, name in names.REQUESTED.items()
        if isinstance(members.get(member), int | float) and members[member] is not True
    }
    stream = call.dialect.streams(call)
    return {names.OPERATION: names.OPERATIONS[call.operation], names.REQUEST_STREAM: stream, **told}


def _end(
    span: Span, name: str, attempt: Attempt, provider: Provider, error: BaseException | None
) -> None:
    if attempt.asked:
        span.update_name(f"{name} {attempt.asked}")
    said = error.said if isinstance(error, UpstreamError) else None
    first = attempt.first_output
    told = {
        names.REQUEST_MODEL: attempt.asked,
        names.STATUS: said or attempt.status,
        names.RESPONSE_FIRST_CHUNK: first - attempt.started if first else None,
        **(_of_usage(attempt.usage) if attempt.usage else {}),
    }
    if first:
        told[names.RESPONSE_MODEL] = attempt.model and provider.scrubbed(attempt.model)
        told[names.RESPONSE_ID] = attempt.reply_id and provider.scrubbed(attempt.reply_id)
        finish = attempt.finish and [provider.scrubbed(attempt.finish)]
        told[names.RESPONSE_FINISH_REASONS] = finish or None
    _tell(span, told)
    if error:
        _fail(span, error, ours=True)
    span.end()


def _of_usage(usage: Usage) -> dict[str, Any]:
    output = names.ESTIMATED_TOKENS if usage.estimated else names.OUTPUT_TOKENS
    return {
        names.INPUT_TOKENS: usage.input,
        output: usage.output,
        names.CACHED_TOKENS: usage.cached,
        names.REASONING_TOKENS: usage.reasoning,
    }


# Both


def _operation(call: Call) -> str:
    return names.OPERATIONS.get(call.operation, call.operation)


def _fail(span: Span, error: BaseException, *, ours: bool) -> None:
    """Tell what went wrong: in a word, for what an upstream says of it may be part of a prompt."""
    if isinstance(error, asyncio.CancelledError):
        span.set_attribute(names.OUTCOME, "cancelled")
        return
    said = error.said if isinstance(error, UpstreamError) else None
    code = error.code if isinstance(error, CallError) else None
    span.set_attribute(names.ERROR, str(said or code or type(error).__qualname__))
    if ours:
        span.set_status(StatusCode.ERROR)


def _tell(span: Span, attributes: Mapping[str, Any]) -> None:
    span.set_attributes(_fit(attributes))


def _fit(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes that are known, without what no exporter can write."""
    return dict(_fitting(attributes))


def _fitting(attributes: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in attributes.items():
        if isinstance(value, str):
            yield name, _short(value)
        elif isinstance(value, list):
            yield name, [_short(text) for text in value]
        elif value is not None and not (isinstance(value, int) and abs(value) > _LARGEST):
            yield name, value


def _short(text: str) -> str:
    return text[:_LONGEST].encode(errors="replace").decode()
