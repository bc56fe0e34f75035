"""Where spans go: to a collector, by a thread, so that no call waits for it.

What OpenTelemetry's variables say (opentelemetry.io/docs/specs/otel/configuration) is read by its
own SDK. What waits is bounded; what is lost is counted, and told when it begins and when it ends.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Lock, Thread

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from headrace import __version__

logger = logging.getLogger("headrace")

Lose = Callable[[int], object]
"""Is told how many spans were lost, in whichever thread that is noticed."""

_LOG = logging.getLogger(OTLPSpanExporter.__module__)
_MOST_WAITING = 2048  # as the SDK has it
_MOST_AT_ONCE = 64  # the SDK's 512 would hold the interpreter, and so all calls, for 25 ms
_GOODBYE = 3.0
"""Seconds for the last spans to be taken when nobody traces any more."""


class Provider(TracerProvider):
    """Where the spans of this process come from, if no application around has set up its own.

    OpenTelemetry takes one for good. So it stays, and what it exports to is opened by the first
    who traces and closed by the last.
    """

    def __init__(self) -> None:
        super().__init__(resource=_resource(), shutdown_on_exit=False)
        self.users: list[Lose] = []
        """Who traces; what is lost is told to the one who came last."""
        self.queue: _Queue | None = None
        """Where spans go; None while nobody traces."""
        self.add_span_processor(_Passing(self))

    def lose(self, count: int) -> None:
        """Spans are lost."""
        if self.users:
            self.users[-1](count)


class _Passing(SpanProcessor):
    """Hands ended spans to where they go at the moment."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    def on_end(self, span: ReadableSpan) -> None:
        queue = self._provider.queue
        if queue and span.context and span.context.trace_flags.sampled:
            queue.take(span)


class Export:
    """The spans of one who traces, on their way."""

    def __init__(self, provider: trace.TracerProvider, lose: Lose) -> None:
        self.provider = provider
        self._lose = lose
        if isinstance(provider, Provider):
            provider.users.append(lose)
            if provider.queue is None and not _disabled():
                provider.queue = _Queue(provider.lose)

    async def aclose(self) -> None:
        """Trace no more; if nobody else does, what waits has a moment to go out."""
        if not isinstance(self.provider, Provider):
            return
        if self.provider.users == [self._lose] and self.provider.queue:
            queue, self.provider.queue = self.provider.queue, None
            await queue.aclose()
        self.provider.users.remove(self._lose)


def opened(lose: Lose) -> Export:
    """Where spans go: as the application around has set it up, else as the variables say.

    What is set up here is everybody's in this process, such as the middleware's.
    """
    provider = trace.get_tracer_provider()
    if isinstance(provider, trace.ProxyTracerProvider):
        provider = Provider()
        trace.set_tracer_provider(provider)
    return Export(provider, lose)


class _Queue(SpanExporter):
    """Spans that wait, and the thread that sends them to the collector, batch by batch."""

    def __init__(self, lose: Lose) -> None:
        self._lose = lose
        self._most = self._room = _number("OTEL_BSP_MAX_QUEUE_SIZE", _MOST_WAITING)
        self._lock = Lock()
        self._closed = False
        self._failing = False
        self._lost = 0
        self._said = _Said()
        _LOG.addFilter(self._said)
        self._exporter = OTLPSpanExporter()
        self._batches = BatchSpanProcessor(
            self,
            max_queue_size=self._most,
            max_export_batch_size=min(
                self._most, _number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", _MOST_AT_ONCE)
            ),
        )

    def take(self, span: ReadableSpan) -> None:
        """Have a span sent, if there is room for it."""
        with self._lock:
            full = self._room <= 0
            self._room -= not full
        if full:
            self._count(1)
        else:
            self._batches.on_end(span)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch; called by the thread."""
        self._said.last = ""
        try:
            result = self._exporter.export(spans)
        except Exception as error:  # noqa: BLE001  whatever it is, these are lost
            result, self._said.last = SpanExportResult.FAILURE, type(error).__name__
        with self._lock:
            self._room += len(spans)
        taken = result is SpanExportResult.SUCCESS
        if not taken:
            self._count(len(spans))
        self._tell(failing=not taken)
        return result

    def shutdown(self) -> None:
        """Try nothing again."""
        with self._lock:
            closed, self._closed = self._closed, True
        if not closed:
            self._exporter.shutdown()  # type: ignore[no-untyped-call]

    async def aclose(self) -> None:
        """Send what waits, for a moment at most; then it is lost."""
        loop, over = asyncio.get_running_loop(), asyncio.Event()

        def end() -> None:
            self._batches.shutdown()  # type: ignore[no-untyped-call]
            _LOG.removeFilter(self._said)
            with suppress(RuntimeError):  # nobody waits any more, and the loop is closed
                loop.call_soon_threadsafe(over.set)

        # A daemon, for a collector that hangs must not keep the process from its end.
        Thread(target=end, name="headrace-spans", daemon=True).start()
        try:
            async with asyncio.timeout(_GOODBYE):
                await over.wait()
        except TimeoutError:
            waiting = self._most - self._room
            self._count(waiting)
            self._lose = lambda count: None  # they are counted
            if not self._failing:
                logger.warning("the last %d spans were not taken in time and are lost", waiting)
            self._failing = True  # and that is told
            self.shutdown()

    def _count(self, count: int) -> None:
        with self._lock:
            self._lost += count
        self._lose(count)

    def _tell(self, *, failing: bool) -> None:
        """One line when it begins, and one when it ends."""
        if failing and not self._failing:
            logger.warning("spans are lost, their collector does not take them: %s", self._said)
        elif self._failing and not failing:
            logger.warning("spans reach their collector again; %d were lost", self._lost)
            self._lost = 0
        self._failing = failing


class _Said(logging.Filter):
    """Keeps what the exporter says of a failure, for a line of our own, out of the log."""

    def __init__(self) -> None:
        super().__init__()
        self.last = ""

    def filter(self, record: logging.LogRecord) -> bool:
        self.last = self.last or record.getMessage()
        return False

    def __str__(self) -> str:
        return re.sub(r"\?[^\s)]*", "?…", self.last)[:300]  # a query may hold a key


def _resource() -> Resource:
    """This process, as the variables say; else by our own name."""
    found = Resource.create()
    if not str(found.attributes[SERVICE_NAME]).startswith("unknown_service"):
        return found
    return found.merge(Resource({SERVICE_NAME: "headrace", SERVICE_VERSION: __version__}))


def _number(variable: str, otherwise: int) -> int:
    written = os.environ.get(variable, "")
    return int(written) if written.isdecimal() and int(written) else otherwise


def _disabled() -> bool:
    return os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
