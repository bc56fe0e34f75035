"""`tracing`: the spans of calls and attempts, what they tell, and whose trace they belong to."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBasedTraceIdRatio
from opentelemetry.trace import SpanKind, StatusCode

from headrace import ConfigError, Event, Provider, UpstreamError
from headrace.testing import (
    Client,
    Upstream,
    ask,
    breaks,
    call,
    chunk,
    down,
    gateway,
    raw,
    refuses,
    says,
    sends,
    settled,
    silent,
    stalls,
    text,
)
from headrace_plugins.fallback import Fallback
from headrace_plugins.race import Race
from headrace_plugins.tracing import Tracing

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
FILE = """
server: {chain: [tracing]}
upstreams: {a: mock, b: {forwarder: mock, models: {large: large-v2}}}
routes:
  fast: {chain: [fallback], targets: [a/small, b/large]}
  cached: {chain: [cache], targets: a/small}
"""


class Spans(InMemorySpanExporter):
    """The spans that have ended, by name."""

    def of(self, kind: SpanKind) -> list[ReadableSpan]:
        return [span for span in self.get_finished_spans() if span.kind is kind]

    @property
    def attempts(self) -> list[ReadableSpan]:
        return self.of(SpanKind.CLIENT)

    @property
    def call(self) -> ReadableSpan:
        [span] = [*self.of(SpanKind.SERVER), *self.of(SpanKind.INTERNAL)]
        return span

    @property
    def text(self) -> str:
        """Everything they tell."""
        return "".join(span.to_json() for span in self.get_finished_spans())


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Spans:
    """Those of an application that has set up where its spans go."""
    return set_up(monkeypatch)


def set_up(monkeypatch: pytest.MonkeyPatch, **options: Any) -> Spans:
    spans = Spans()
    provider = TracerProvider(shutdown_on_exit=False, **options)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    return spans


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


@asynccontextmanager
async def running(
    text: str = FILE, upstream: Upstream | None = None, **headers: str
) -> AsyncIterator[Client]:
    """A client of a gateway, which sends these headers."""
    made = gateway(text, upstream=upstream)
    async with made.lifespan():
        yield Client(made, headers={name.replace("_", "-"): v for name, v in headers.items()})


def told(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def ids(span: ReadableSpan) -> tuple[str, str, str | None]:
    """Trace, span and parent."""
    assert span.context
    parent = format(span.parent.span_id, "016x") if span.parent else None
    return format(span.context.trace_id, "032x"), format(span.context.span_id, "016x"), parent


def is_sampled(traceparent: str) -> bool:
    return int(traceparent[-2:], 16) % 2 == 1  # the lowest bit (w3.org/TR/trace-context, 3.2.2.5)


# What there is


async def test_a_call_has_a_span_and_so_has_each_attempt(spans: Spans, upstream: Upstream) -> None:
    upstream.script(down(), says("hello"))

    async with running(upstream=upstream) as client:
        await (await client.chat(model="fast")).read()

    first, second = spans.attempts
    assert [first.name, second.name] == ["chat small", "chat large-v2"]
    assert (spans.call.name, spans.call.kind) == ("chat fast", SpanKind.SERVER)
    trace_id, call_id, _ = ids(spans.call)
    assert ids(first)[::2] == ids(second)[::2] == (trace_id, call_id)
    assert told(first)["error.type"] == "connect_failed"
    assert first.status.status_code is StatusCode.ERROR
    assert "error.type" not in told(second)
    assert second.status.status_code is StatusCode.UNSET


async def test_an_attempt_tells_what_the_conventions_want(spans: Spans, upstream: Upstream) -> None:
    upstream.script(says("hello", usage=(7, 5)))
    asked: dict[str, Any] = {
        "max_tokens": 9,
        "temperature": 0.5,
        "seed": 3,
        "n": 1,
        "stop": ["secret words"],
    }

    async with running(upstream=upstream) as client:
        await (await client.chat(model="fast", **asked)).read()

    [span] = spans.attempts
    attributes = told(span)
    assert attributes.pop("gen_ai.response.time_to_first_chunk") >= 0
    assert attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "mock",
        "gen_ai.request.model": "small",
        "gen_ai.request.stream": False,
        "gen_ai.request.max_tokens": 9,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.seed": 3,
        "gen_ai.request.choice.count": 1,
        "gen_ai.response.id": "chatcmpl-1",
        "gen_ai.response.model": "scripted",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 5,
        "http.response.status_code": 200,
        "headrace.upstream": "a",
        "headrace.attempt": 1,
    }


async def test_a_call_tells_who_asked_for_what_and_who_answered(
    spans: Spans, upstream: Upstream
) -> None:
    written = """
    server:
      chain:
        - tracing
        - api_key: {keys: {51758ef6921494b7695e67d9ec91c5eda24426b1467a5410f2e3b19ea9244465: ann}}
        - rate_limit
    callers: {ann: {limits: {requests: 2/minute}}}
    upstreams: {a: mock}
    routes: {"f*": a}
    """

    async with running(
        written, upstream, authorization="Bearer sk-ann", x_request_id="mine"
    ) as client:
        await (await client.chat(model="fast")).read()

    assert told(spans.call) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "fast",
        "headrace.request.id": "mine",
        "headrace.caller": "ann",
        "headrace.route": "f*",
        "headrace.upstream": "a",
        "headrace.attempts": 1,
        "headrace.limit.outcome": "admitted",
        "headrace.limit.policies": ("caller",),
    }


async def test_who_is_refused_is_traced_without_an_attempt(spans: Spans) -> None:
    written = """
    server: {chain: [tracing, rate_limit: {policies: [{name: few, by: [], requests: 1/hour}]}]}
    upstreams: {a: mock}
    routes: {"*": a}
    """

    async with running(written) as client:
        await (await client.chat()).read()
        spans.clear()
        assert (await client.chat()).status == 429

    assert not spans.attempts
    assert spans.call.name == "chat"
    attributes = told(spans.call)
    assert attributes["headrace.limit.outcome"] == "refused"
    assert attributes["headrace.limit.policies"] == ("few",)
    assert attributes["error.type"] == "rate_limit_exceeded"
    assert spans.call.status.status_code is StatusCode.UNSET  # the gateway is well


async def test_an_answer_from_the_cache_has_no_attempt(spans: Spans) -> None:
    async with running() as client:
        await (await client.chat(model="cached")).read()
        assert told(spans.call)["headrace.cache"] == "miss"
        spans.clear()
        await (await client.chat(model="cached")).read()

    assert told(spans.call)["headrace.cache"] == "hit"
    assert told(spans.call)["headrace.attempts"] == 0
    assert not spans.attempts


async def test_what_is_passed_through_has_spans_without_words_of_models(spans: Spans) -> None:
    written = """
    server: {chain: [tracing]}
    upstreams: {a: mock}
    routes: {/v1/files*: a}
    """

    async with running(written) as client:
        assert (await client.get("/v1/files")).status == 404

    [attempt] = spans.attempts
    assert attempt.name == spans.call.name == "passthrough"
    assert not [name for name in told(spans.call) if name.startswith("gen_ai.")]
    assert told(attempt)["error.type"] == "mock_unsupported"


@pytest.mark.parametrize(
    ("operation", "name"), [("completion", "text_completion m"), ("embedding", "embeddings m")]
)
async def test_operations_go_by_the_names_of_the_conventions(
    spans: Spans, upstream: Upstream, operation: str, name: str
) -> None:
    async with Tracing() as tracing:
        await raw(await ask(tracing, upstream=upstream, call=call(operation)))

    assert [span.name for span in spans.attempts] == [name]
    assert told(spans.attempts[0])["gen_ai.operation.name"] == name.removesuffix(" m")


# How it went


async def test_spans_of_a_stream_last_as_long_as_it_does(spans: Spans, upstream: Upstream) -> None:
    upstream.script(says("one ", "two"))
    async with Tracing() as tracing:
        reply = await ask(tracing, upstream=upstream, call=call(stream=True))
        assert spans.get_finished_spans() == ()

        await text(reply)

    [attempt] = spans.attempts
    assert told(attempt)["gen_ai.request.stream"] is True
    assert told(attempt)["gen_ai.response.finish_reasons"] == ("stop",)
    assert told(attempt)["gen_ai.usage.output_tokens"] == 2
    assert attempt.end_time
    assert spans.call.end_time
    assert attempt.end_time <= spans.call.end_time


async def test_nothing_looks_at_the_events_of_a_stream(spans: Spans, upstream: Upstream) -> None:
    async with Tracing() as tracing:
        plain = await ask(upstream=upstream, call=call(stream=True))
        traced = await ask(tracing, upstream=upstream, call=call(stream=True))

        assert traced.events.__qualname__ == plain.events.__qualname__  # type: ignore[attr-defined]
        await traced.aclose()
        await plain.aclose()


async def test_a_stream_that_breaks_is_an_error(spans: Spans, upstream: Upstream) -> None:
    upstream.script(breaks("hello"))

    async with running(upstream=upstream) as client:
        await (await client.chat(model="fast", stream=True)).read()

    [attempt] = spans.attempts
    for span in (attempt, spans.call):
        assert told(span)["error.type"] == "upstream_truncated"
        assert span.status.status_code is StatusCode.ERROR


async def test_tokens_that_nobody_counted_go_by_a_name_of_our_own(
    spans: Spans, upstream: Upstream
) -> None:
    upstream.script(stalls("twelve chars"))

    async with running(upstream=upstream) as client:
        leaving = await client.chat(model="fast", stream=True)
        await anext(leaving.chunks())
        await leaving.leave()

    [attempt] = spans.attempts
    assert told(attempt)["headrace.usage.estimated_output_tokens"] == 3
    assert "gen_ai.usage.output_tokens" not in told(attempt)
    for span in (attempt, spans.call):
        assert told(span)["headrace.outcome"] == "cancelled"
        assert span.status.status_code is StatusCode.UNSET


async def test_who_leaves_while_it_waits_ends_the_spans(spans: Spans, upstream: Upstream) -> None:
    upstream.script(silent())
    async with Tracing() as tracing:
        asked = asyncio.ensure_future(ask(tracing, upstream=upstream, call=call()))
        await upstream.began.wait()

        asked.cancel()
        await asyncio.wait([asked])

    assert len(spans.attempts) == 1
    assert told(spans.call)["headrace.outcome"] == "cancelled"


async def test_of_a_race_the_loser_is_told_as_one(spans: Spans, upstream: Upstream) -> None:
    upstream.script(silent(), says("hello"))
    async with Tracing() as tracing:
        asked = call(targets=["a", "b"])
        await text(await ask(tracing, Race(), upstream=upstream, call=asked))
        await settled()

    outcomes = {told(span)["headrace.upstream"]: told(span) for span in spans.attempts}
    assert outcomes["a"]["headrace.outcome"] == "cancelled"
    assert "headrace.outcome" not in outcomes["b"]
    assert {span.parent.span_id for span in spans.attempts if span.parent} == {
        spans.call.context.span_id if spans.call.context else None
    }


async def test_an_upstreams_status_is_the_kind_of_its_error(
    spans: Spans, upstream: Upstream
) -> None:
    upstream.script(refuses(503), refuses(400))
    asked = call(targets=["a", "b"])

    async with Tracing() as tracing:
        with pytest.raises(UpstreamError):
            await ask(tracing, Fallback(), upstream=upstream, call=asked)

    assert [told(span)["error.type"] for span in spans.attempts] == ["503", "400"]
    assert [told(span)["http.response.status_code"] for span in spans.attempts] == [503, 400]
    assert told(spans.call)["error.type"] == "400"
    assert spans.call.status.status_code is StatusCode.UNSET


# Whose trace it is


async def test_the_clients_trace_goes_on_and_the_upstream_gets_the_attempts(
    spans: Spans, upstream: Upstream
) -> None:
    sent = {"traceparent": TRACEPARENT, "tracestate": "vendor=1", "baggage": "user=ann"}

    async with running(upstream=upstream, **sent) as client:
        await (await client.chat(model="fast")).read()

    [attempt] = spans.attempts
    assert ids(spans.call)[::2] == (TRACE, PARENT)
    trace_id, span_id, _ = ids(attempt)
    got = upstream.calls[0].headers
    assert got.getlist("traceparent") == [f"00-{trace_id}-{span_id}-01"]
    assert got.getlist("tracestate") == ["vendor=1"]


async def test_a_span_around_the_gateway_is_the_parent_and_the_clients_is_not(
    spans: Spans, upstream: Upstream
) -> None:
    async with running(upstream=upstream, traceparent=TRACEPARENT) as client:
        with trace.get_tracer("host").start_as_current_span("page") as around:
            await (await client.chat(model="fast")).read()

    [inside] = [span for span in spans.of(SpanKind.INTERNAL) if span.name == "chat fast"]
    assert inside.parent
    assert inside.parent.span_id == around.get_span_context().span_id
    assert ids(inside)[0] != TRACE


@pytest.mark.parametrize("line", ["", "00-0-0-01", f"ff-{TRACE}-{PARENT}-01", "x" * 600])
async def test_a_trace_that_is_none_begins_anew(
    spans: Spans, upstream: Upstream, line: str
) -> None:
    asked = call(headers={"traceparent": line, "tracestate": "vendor=1"})

    async with Tracing() as tracing:
        await text(await ask(tracing, upstream=upstream, call=asked))

    assert spans.call.parent is None
    assert upstream.calls[0].headers.getlist("traceparent") != [line]
    assert "tracestate" not in upstream.calls[0].headers


async def test_what_a_client_does_not_want_kept_is_not(spans: Spans, upstream: Upstream) -> None:
    asked = call(headers={"traceparent": TRACEPARENT[:-1] + "0"})

    async with Tracing() as tracing:
        await text(await ask(tracing, upstream=upstream, call=asked))

    assert not spans.get_finished_spans()
    carried = upstream.calls[0].headers["traceparent"]
    assert carried.startswith(f"00-{TRACE}-")
    assert not is_sampled(carried)


async def test_what_is_not_sampled_is_told_to_upstreams_as_such(
    monkeypatch: pytest.MonkeyPatch, upstream: Upstream
) -> None:
    spans = set_up(monkeypatch, sampler=ALWAYS_OFF)

    async with Tracing() as tracing:
        await text(await ask(tracing, upstream=upstream, call=call()))

    assert not spans.get_finished_spans()
    assert not is_sampled(upstream.calls[0].headers["traceparent"])
    assert not upstream.calls[0].each_attempt


async def test_attempts_are_kept_with_their_call(
    monkeypatch: pytest.MonkeyPatch, upstream: Upstream
) -> None:
    spans = set_up(monkeypatch, sampler=ParentBasedTraceIdRatio(0.5))

    async with Tracing() as tracing:
        for _ in range(40):
            await text(await ask(tracing, upstream=upstream, call=call()))

    assert len(spans.attempts) == len(spans.of(SpanKind.SERVER))
    assert 0 < len(spans.attempts) < 40


async def test_without_the_plugin_the_clients_trace_goes_through(upstream: Upstream) -> None:
    async with running("upstreams: {a: mock}", upstream, traceparent=TRACEPARENT) as client:
        await (await client.chat(model="a/m")).read()

    assert upstream.calls[0].headers["traceparent"] == TRACEPARENT


# What is not told


CANARY = "canary-4b1d"
TALK: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": f"{CANARY}-system"},
        {"role": "user", "content": [{"type": "text", "text": f"{CANARY}-user"}]},
    ],
    "stop": [f"{CANARY}-stop"],
    "user": f"{CANARY}-who",
    "tools": [{"type": "function", "function": {"name": f"{CANARY}-tool"}}],
}


@pytest.fixture(params=["plain", "stream", "quoted", "broken"])
def spoken(request: pytest.FixtureRequest, upstream: Upstream) -> dict[str, Any]:
    """A call whose answer, or whose failure, repeats the prompt."""

    async def quoting(upstream: Upstream, call: Any) -> Any:
        body = {"error": {"message": CANARY, "code": CANARY, "type": CANARY, "param": CANARY}}
        raise UpstreamError.refused(400, json.dumps(body).encode())

    acts = {"quoted": quoting, "broken": breaks(f"{CANARY}-said")}
    upstream.script(acts.get(request.param, says(f"{CANARY}-said")))
    return {**TALK, "stream": request.param in ("stream", "broken")}


async def test_off_means_that_no_word_is_told(
    spans: Spans, upstream: Upstream, spoken: dict[str, Any]
) -> None:
    sent = {"authorization": f"Bearer {CANARY}-key", "cookie": CANARY, "baggage": CANARY}

    async with running(upstream=upstream, **sent) as client:
        await (await client.chat(model="fast", **spoken)).read()

    assert spans.attempts
    assert CANARY not in spans.text
    assert not any(span.events for span in spans.get_finished_spans())


async def test_numbers_and_texts_that_no_exporter_can_write_are_left_out(
    spans: Spans, upstream: Upstream
) -> None:
    usage = {"prompt_tokens": 2**63, "completion_tokens": 4}
    upstream.script(
        sends(
            json.dumps({**chunk(content="x", finish="stop"), "id": "i" * 9999}).encode(),
            json.dumps(chunk(usage=usage)).encode(),
            b"[DONE]",
        )
    )
    asked = call(stream=True, body=b"", seed=0).replace(
        body=b'{"model":"m","stream":true,"messages":[],"seed":12345678901234567890123}'
    )

    async with Tracing() as tracing:
        await raw(await ask(tracing, upstream=upstream, call=asked))

    attributes = told(spans.attempts[0])
    assert "gen_ai.request.seed" not in attributes
    assert "gen_ai.usage.input_tokens" not in attributes
    assert attributes["gen_ai.usage.output_tokens"] == 4
    assert len(attributes["gen_ai.response.id"]) == 256


# What is told where somebody wants it


async def content(
    spans: Spans, upstream: Upstream, largest: int = 16_000, secrets: Any = (), **members: Any
) -> tuple[Any, Any]:
    """The messages that a call has in its span, asked and said."""
    options: dict[str, Any] = {"provider": Provider("scripted", tuple(secrets))}
    headers = {"authorization": "Bearer sk-client"}
    asked = call(headers=headers, **members)
    async with Tracing(content=True, largest=largest) as tracing:  # type: ignore[arg-type]
        await raw(await ask(tracing, upstream=upstream, call=asked, **options))
    attributes = told(spans.attempts[-1])
    return tuple(json.loads(attributes[f"gen_ai.{way}.messages"]) for way in ("input", "output"))


@pytest.mark.parametrize("stream", [False, True])
async def test_content_is_messages_and_their_answer(
    spans: Spans, upstream: Upstream, stream: bool
) -> None:
    upstream.script(says("hel", "lo"))

    asked, said = await content(spans, upstream, stream=stream)

    assert asked == [{"role": "user", "parts": [{"type": "text", "content": "hi"}]}]
    assert said == [
        {
            "role": "assistant",
            "parts": [{"type": "text", "content": "hello"}],
            "finish_reason": "stop",
        }
    ]


async def test_tools_and_pictures_are_parts(spans: Spans, upstream: Upstream) -> None:
    pieces: list[dict[str, Any]] = [
        {"index": 0, "id": "c2", "function": {"name": "sum", "arguments": '{"a"'}},
        {"index": 0, "function": {"arguments": ": 1}"}},
    ]
    chunks = [chunk(tool_calls=[piece]) for piece in pieces] + [chunk(finish="tool_calls")]
    upstream.script(sends(*(json.dumps(each).encode() for each in chunks), b"[DONE]"))
    called = {"id": "c1", "function": {"name": "look", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:AAAA"}}]},
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "c1", "content": "a cat"},
    ]

    asked, said = await content(spans, upstream, stream=True, messages=messages)

    assert asked == [
        {"role": "user", "parts": [{"type": "image_url"}]},
        {
            "role": "assistant",
            "parts": [{"type": "tool_call", "id": "c1", "name": "look", "arguments": "{}"}],
        },
        {
            "role": "tool",
            "parts": [{"type": "tool_call_response", "id": "c1", "response": "a cat"}],
        },
    ]
    [answer] = said
    call_made = {"type": "tool_call", "id": "c2", "name": "sum", "arguments": '{"a": 1}'}
    assert answer["parts"] == [call_made]


async def test_prompts_of_completions_are_messages_too(spans: Spans, upstream: Upstream) -> None:
    asked, _ = await content(spans, upstream, operation="completion", prompt=["one", "two"])

    assert [message["parts"][0]["content"] for message in asked] == ["one", "two"]


async def test_secrets_are_not_told_even_then(spans: Spans, upstream: Upstream) -> None:
    upstream.script(says("my key is ", "sk-up", "stream", ", yours is sk-client"))
    messages = [{"role": "user", "content": "sk-upstream or sk-client?"}]

    asked, said = await content(
        spans, upstream, secrets=["sk-upstream"], stream=True, messages=messages
    )

    assert asked[0]["parts"][0]["content"] == "*** or ***?"
    assert said[0]["parts"][0]["content"] == "my key is ***, yours is ***"


@pytest.mark.parametrize("length", range(30, 60))
async def test_a_cut_does_not_show_half_a_secret(
    spans: Spans, upstream: Upstream, length: int
) -> None:
    words = "sk-upstream " + "x" * 20 + "sk-upstream and more" * 9
    upstream.script(says(*words))

    asked, said = await content(
        spans,
        upstream,
        length,
        ["sk-upstream"],
        stream=True,
        messages=[{"role": "user", "content": words}],
    )

    for told_text in (asked[0]["parts"][0]["content"], said[0]["parts"][0]["content"]):
        assert "sk" not in told_text
        assert told_text.startswith("*** xxx")


async def test_the_last_messages_come_first_where_there_is_not_room_for_all(
    spans: Spans, upstream: Upstream
) -> None:
    messages = [{"role": "user", "content": f"{number} " + "x" * 50} for number in range(20_000)]

    asked, _ = await content(spans, upstream, 200, messages=messages)

    assert [message["parts"][0]["content"][:5] for message in asked][-1] == "19999"
    assert len(json.dumps(asked)) < 800


@pytest.mark.parametrize(
    "messages",
    [[None], ["hi"], [{"role": 1, "content": {"a": 1}}], [{"tool_calls": [1, {"function": 2}]}]],
)
async def test_messages_that_are_none_harm_nothing(
    spans: Spans, upstream: Upstream, messages: list[Any]
) -> None:
    asked, said = await content(spans, upstream, messages=messages)

    assert len(asked) == 1
    assert said[0]["parts"][0]["content"] == "hello"


# The plugin itself


async def test_events_are_the_same_bytes(spans: Spans, upstream: Upstream) -> None:
    upstream.script(says("one ", "two"))
    plain = await raw(await ask(upstream=upstream, call=call(stream=True)))
    async with Tracing(content=True) as tracing:
        traced = await ask(tracing, upstream=upstream, call=call(stream=True))
        assert await raw(traced) == plain
    assert Event(plain).raw == plain


def test_without_its_extra_it_is_a_problem_that_says_so(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("server: {chain: [tracing]}\nupstreams: {a: mock}\n")
    code = "import sys; sys.modules['opentelemetry'] = None; from headrace.cli import main; main()"

    check = subprocess.run(
        [sys.executable, "-c", code, "check", str(file)], capture_output=True, text=True
    )

    assert check.returncode == 1
    assert "gateway.yaml:1:18: tracing: needs OpenTelemetry" in check.stderr
    assert "install 'headrace[otel]'" in check.stderr


async def test_explained_it_sets_nothing_up(upstream: Upstream) -> None:
    tracing = Tracing()

    await raw(await ask(tracing, upstream=upstream, call=call(headers={"traceparent": "x"})))

    assert upstream.calls[0].headers["traceparent"] == "x"


def test_another_protocol_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")

    with pytest.raises(ConfigError, match="tracing: sends http/protobuf"):
        gateway("server: {chain: [tracing]}\nupstreams: {a: mock}")
