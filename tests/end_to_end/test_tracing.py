"""`tracing` as a collector meets it: real spans over OTLP, and calls that never wait for it."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Wired
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.util._once import Once

from headrace import Vitals
from headrace.testing import Loopback, Upstream, ask, call, text
from headrace.testing.misbehaviour import (
    COMPLETION,
    EVENTS,
    Act,
    Received,
    answers,
    status,
    streams,
)
from headrace_plugins.tracing import Tracing

from .serving import Served, eventually, serving

CANARY = "canary-4b1d"
CONFIG = """
    server:
      auth: none
      middleware:
        - opentelemetry.instrumentation.asgi:OpenTelemetryMiddleware:
            {exclude_spans: [send, receive]}
      chain: [tracing]
    upstreams:
      a:
        forwarder: {openai: {base_url: "${UPSTREAM}/v1", api_key: canary-4b1d-upstream}}
        models: [one]
      b: {forwarder: {openai: {base_url: "${UPSTREAM}/v1"}}, models: [two]}
    routes:
      m: {chain: [fallback], targets: [a/one, b/two]}
      cached: {chain: [cache], targets: a/one}
    """
EXAMPLE = Path(__file__).parents[2] / "examples/tracing"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@dataclass(frozen=True)
class Span:
    """A span as it came over the wire."""

    wired: Wired
    service: str

    @property
    def name(self) -> str:
        return str(self.wired.name)

    @property
    def kind(self) -> str:
        return str(Wired.SpanKind.Name(self.wired.kind)).removeprefix("SPAN_KIND_")

    @property
    def ids(self) -> tuple[str, str, str]:
        """Trace, span and parent."""
        return (
            self.wired.trace_id.hex(), self.wired.span_id.hex(), self.wired.parent_span_id.hex(),
        )  # fmt: skip

    def is_carried_by(self, request: Received) -> bool:
        """Whether a request says that it belongs to this span."""
        trace_id, span_id, _ = self.ids
        [line] = [value for name, value in request.headers if name.lower() == "traceparent"]
        return line.startswith(f"00-{trace_id}-{span_id}-")

    @property
    def told(self) -> dict[str, Any]:
        fields = {each.key: each.value.ListFields() for each in self.wired.attributes}
        return {name: found[0][1] if found else None for name, found in fields.items()}


class Collector(Loopback):
    """Takes spans over OTLP."""

    @property
    def spans(self) -> list[Span]:
        """All that have come, in the order of their start."""
        return sorted(self._spans(), key=lambda span: span.wired.start_time_unix_nano)

    def _spans(self) -> Iterator[Span]:
        for request in self.requests:
            assert request.target == "/v1/traces"
            for each in ExportTraceServiceRequest.FromString(request.body).resource_spans:
                named = {one.key: one.value.string_value for one in each.resource.attributes}
                for scope in each.scope_spans:
                    yield from (Span(span, named["service.name"]) for span in scope.spans)

    async def told(self, count: int) -> list[Span]:
        """The spans, when so many are there."""
        await eventually(lambda: len(self.spans) >= count)
        return self.spans


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with Collector() as collector:
        collector.script(status(200))
        yield collector


@asynccontextmanager
async def tracing(
    collector: str, upstream: Loopback, text: str = CONFIG, **environ: str
) -> AsyncIterator[tuple[Served, AsyncOpenAI]]:
    """A gateway that sends its spans to a collector, and OpenAI's client of it."""
    told = {
        "UPSTREAM": upstream.url,
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector,
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        **environ,
    }
    async with serving(text, **told) as served:
        key = f"{CANARY}-client"
        async with AsyncOpenAI(base_url=f"{served.url}/v1", api_key=key, max_retries=0) as client:
            yield served, client


async def chat(client: AsyncOpenAI, model: str = "m", **options: Any) -> Any:
    messages: Any = [{"role": "user", "content": f"{CANARY}-prompt"}]
    return await client.chat.completions.create(model=model, messages=messages, **options)


async def test_a_request_is_one_trace_from_the_client_to_the_upstream(
    collector: Collector, upstream: Loopback
) -> None:
    upstream.script(answers(COMPLETION))
    named = {"OTEL_SERVICE_NAME": "chat", "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=test"}

    async with tracing(collector.url, upstream, **named) as (_, client):
        await chat(client, extra_headers={"traceparent": PARENT})
        request, call, attempt = await collector.told(3)

    assert (request.name, request.kind) == ("POST /v1/chat/completions", "SERVER")
    assert (call.name, call.kind) == ("chat m", "INTERNAL")
    assert (attempt.name, attempt.kind) == ("chat one", "CLIENT")
    trace_id, of_client = PARENT.split("-")[1:3]
    assert {span.ids[0] for span in (request, call, attempt)} == {trace_id}
    assert request.ids[2] == of_client
    assert call.ids[2] == request.ids[1]
    assert attempt.ids[2] == call.ids[1]
    [asked] = upstream.requests
    assert attempt.is_carried_by(asked)
    assert {span.service for span in collector.spans} == {"chat"}
    assert attempt.told["gen_ai.usage.input_tokens"] == 3
    assert attempt.told["gen_ai.provider.name"] == "openai"


async def test_a_fallback_is_two_attempts(collector: Collector, upstream: Loopback) -> None:
    upstream.script(status(503), answers(COMPLETION))

    async with tracing(collector.url, upstream) as (_, client):
        await chat(client)
        spans = await collector.told(4)

    first, second = spans[2:]
    assert (first.told["headrace.upstream"], second.told["headrace.upstream"]) == ("a", "b")
    assert first.told["error.type"] == "503"
    assert first.wired.status.code == first.wired.status.STATUS_CODE_ERROR
    assert "error.type" not in second.told
    assert first.ids[2] == second.ids[2] == spans[1].ids[1]
    assert first.is_carried_by(upstream.requests[0])
    assert second.is_carried_by(upstream.requests[1])


async def test_a_stream_is_told_when_it_is_over(collector: Collector, upstream: Loopback) -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    upstream.script(streams(*EVENTS, {**COMPLETION, "choices": [], "usage": usage}))

    async with tracing(collector.url, upstream) as (_, client):
        async for _ in await chat(client, stream=True):
            pass
        request, call, attempt = await collector.told(3)

    assert attempt.told["gen_ai.request.stream"] is True
    assert attempt.told["gen_ai.response.time_to_first_chunk"] > 0
    assert attempt.told["gen_ai.usage.output_tokens"] == 2
    assert attempt.wired.end_time_unix_nano <= call.wired.end_time_unix_nano
    assert call.wired.end_time_unix_nano <= request.wired.end_time_unix_nano


async def test_an_answer_from_the_cache_has_no_attempt(
    collector: Collector, upstream: Loopback
) -> None:
    upstream.script(answers(COMPLETION))

    async with tracing(collector.url, upstream) as (_, client):
        await chat(client, "cached")
        await chat(client, "cached")
        spans = await collector.told(5)

    assert [span.kind for span in spans] == ["SERVER", "INTERNAL", "CLIENT", "SERVER", "INTERNAL"]
    assert [spans[n].told["headrace.cache"] for n in (1, 4)] == ["miss", "hit"]


async def test_no_word_and_no_key_leaves_the_gateway(
    collector: Collector, upstream: Loopback
) -> None:
    error = {"error": {"message": f"{CANARY}-said", "code": f"{CANARY}-code"}}
    upstream.script(answers(COMPLETION), status(400, error), status(401, error))

    async with tracing(
        collector.url, upstream, OTEL_EXPORTER_OTLP_HEADERS=f"authorization=Bearer%20{CANARY}"
    ) as (served, client):
        for _ in range(3):
            await asyncio.gather(chat(client), return_exceptions=True)
        await collector.told(9)

    assert not [request for request in collector.requests if CANARY.encode() in request.body]
    assert {request.header("authorization") for request in collector.requests} == {
        f"Bearer {CANARY}"
    }
    assert not [line for line in served.said if CANARY in line]


async def test_content_is_told_where_it_is_wanted(collector: Collector, upstream: Loopback) -> None:
    upstream.script(answers(COMPLETION))

    async with tracing(
        collector.url, upstream, CONFIG.replace("[tracing]", "[tracing: {content: true}]")
    ) as (_, client):
        await chat(client)
        attempt = (await collector.told(3))[2]

    assert f"{CANARY}-prompt" in attempt.told["gen_ai.input.messages"]
    assert "Hello world" in attempt.told["gen_ai.output.messages"]


async def test_a_sampler_of_the_variables_decides(collector: Collector, upstream: Loopback) -> None:
    upstream.script(answers(COMPLETION))

    async with tracing(collector.url, upstream, OTEL_TRACES_SAMPLER="parentbased_always_off") as (
        _,
        client,
    ):
        await chat(client)
        await chat(client, extra_headers={"traceparent": PARENT})
        spans = await collector.told(3)

    assert {span.ids[0] for span in spans} == {PARENT.split("-")[1]}


async def test_switched_off_by_the_variable_nothing_is_sent(
    collector: Collector, upstream: Loopback
) -> None:
    upstream.script(answers(COMPLETION))

    async with tracing(collector.url, upstream, OTEL_SDK_DISABLED="true") as (_, client):
        await chat(client, extra_headers={"traceparent": PARENT})

    assert not collector.connections
    assert upstream.requests[0].header("traceparent") == PARENT


# A collector that is not well


async def test_a_collector_that_hangs_costs_no_call_anything_and_does_not_hold_the_end(
    collector: Collector, upstream: Loopback
) -> None:
    collector.script((Act.STALL,))
    upstream.script(answers(COMPLETION))
    small = {"OTEL_BSP_MAX_QUEUE_SIZE": "8"}

    async with tracing(collector.url, upstream, **small) as (served, client):
        await chat(client)
        await collector.asked()  # from now on its thread waits for an answer
        async with asyncio.timeout(8):
            for _ in range(30):
                await chat(client)
        served.stop()
        assert await served.ended(within=8) == 0

    assert len(collector.connections) == 1
    lines = [line for line in served.said if "spans" in line]
    assert len(lines) == 1, served.said
    assert re.search(r"the last 8 spans were not taken in time and are lost$", lines[0])


async def test_a_collector_that_is_gone_is_told_once_and_so_is_its_return(
    collector: Collector, upstream: Loopback
) -> None:
    upstream.script(answers(COMPLETION))
    collector.script(status(401, b"", "connection: close"))
    quick = {"OTEL_EXPORTER_OTLP_TIMEOUT": "0.5"}

    async with tracing(collector.url, upstream, **quick) as (served, client):
        for number in range(3):
            await chat(client)
            await collector.asked(number + 1, within=5)
        await served.until(lambda: any("spans are lost" in line for line in served.said))
        collector.script(status(200))
        await chat(client)
        await served.until(lambda: any("again; " in line for line in served.said))

    lines = [line for line in served.said if "span" in line]
    assert len(lines) == 2, served.said
    assert "collector does not take them" in lines[0]
    assert "code: 401" in lines[0]
    assert re.search(r"again; \d+ were lost$", lines[1])


async def test_where_no_collector_is_the_gateway_ends_in_time(upstream: Loopback) -> None:
    upstream.script(answers(COMPLETION))
    async with Loopback() as gone:
        nowhere = gone.url

    async with tracing(nowhere, upstream) as (served, client):
        await chat(client)
        served.stop()
        assert await served.ended(within=8) == 0

    assert len([line for line in served.said if "span" in line]) == 1, served.said


# Within one process


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch, collector: Collector) -> None:
    """Nobody has set up where spans go, but the variables tell."""
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.5")


async def asked(tracing: Tracing) -> None:
    await text(await ask(tracing, upstream=Upstream(), call=call()))


@pytest.mark.usefixtures("unset")
async def test_what_was_there_before_it_was_set_up_is_traced_too(collector: Collector) -> None:
    middleware = trace.get_tracer("made before")

    async with Tracing() as tracing:
        with middleware.start_as_current_span("page"):
            await asked(tracing)

    assert [span.name for span in collector.spans] == ["page", "chat", "chat m"]
    assert {span.service for span in collector.spans} == {"headrace"}


@pytest.mark.usefixtures("unset")
async def test_one_that_takes_anothers_place_goes_on_with_its_spans(collector: Collector) -> None:
    old, new = Tracing(), Tracing(content=True)

    await old.__aenter__()
    await asked(old)
    await new.__aenter__()
    await old.__aexit__()
    await asked(new)
    await new.__aexit__()
    assert len(collector.spans) == 4

    async with old:  # and once more, when nobody had traced for a while
        await asked(old)
    assert len(collector.spans) == 6


@pytest.mark.usefixtures("unset")
async def test_of_an_application_around_nothing_is_changed(collector: Collector) -> None:
    spans = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    trace.set_tracer_provider(provider)

    async with Tracing() as tracing:
        await asked(tracing)
    async with Tracing() as tracing:  # its provider is still open
        await asked(tracing)

    assert trace.get_tracer_provider() is provider
    assert len(spans.get_finished_spans()) == 4
    assert not collector.connections


@pytest.mark.usefixtures("unset")
async def test_what_is_not_taken_is_counted_as_lost(collector: Collector) -> None:
    collector.script(status(500))
    vitals = Vitals()

    async with Tracing(vitals=vitals) as tracing:
        for _ in range(3):
            await asked(tracing)

    await eventually(lambda: vitals.lost["tracing"] == 6)


@pytest.mark.usefixtures("unset")
async def test_what_finds_no_room_is_counted_as_lost_at_once(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "4")
    collector.script((Act.STALL,))
    vitals = Vitals()

    async with Tracing(vitals=vitals) as tracing:
        for _ in range(10):
            await asked(tracing)
        await eventually(lambda: vitals.lost["tracing"] >= 12)  # four wait, or have been given up

    await eventually(lambda: vitals.lost["tracing"] == 20)


@pytest.mark.usefixtures("unset")
async def test_a_text_that_no_exporter_can_write_loses_no_batch(collector: Collector) -> None:
    async with Tracing() as tracing:
        given = call()
        given.record.route = "\ud800"
        await text(await ask(tracing, upstream=Upstream(), call=given))

    assert [span.told.get("headrace.route") for span in collector.spans] == ["?", None]


# The example


async def test_the_collector_of_the_example_prints_the_trace() -> None:
    collecting = await asyncio.create_subprocess_exec(
        sys.executable, EXAMPLE / "collector.py", env={"PORT": "0"}, stdout=asyncio.subprocess.PIPE
    )
    assert collecting.stdout
    try:
        address = (await collecting.stdout.readline()).decode().split()[-1]
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": address, "OTEL_BSP_SCHEDULE_DELAY": "50"}
        text = (EXAMPLE / "gateway.yaml").read_text()
        async with serving(text, **environ) as served:
            async with AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none") as client:
                await chat(client, "fast", extra_headers={"traceparent": PARENT})
            async with asyncio.timeout(10):
                lines = [(await collecting.stdout.readline()).decode() for _ in range(4)]
    finally:
        collecting.kill()
        await collecting.wait()

    assert {line.split()[0] for line in lines} == {"0af765"}
    [broken] = [line for line in lines if "headrace.upstream=broken" in line]
    assert "error.type=connect_failed" in broken
    assert [line for line in lines if "in b7ad6b 'POST /v1/chat/completions'" in line]
