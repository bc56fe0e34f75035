"""One span a call, one an attempt."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from headrace import Call, Next, Reply, Size, Vitals, __version__

if TYPE_CHECKING:
    from headrace_plugins.tracing.spans import Calls

_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_HTTP = "http/protobuf"


@dataclass(kw_only=True)
class Tracing:
    """Tell OpenTelemetry of every call: one span for it, and one for each of its attempts.

    Spans go by OTLP to where OpenTelemetry's own variables say, or wherever the application around
    the gateway sends its own. Upstreams get the attempt's trace context in place of the client's.
    What was asked and said is told of nobody unless `content` says so.
    """

    content: bool = False
    """Whether spans hold what was asked and what was said."""
    largest: Size = Size(16_000)
    """How much of it: characters of what was asked, and as many of what was said."""
    vitals: Vitals = field(default_factory=Vitals.of_server)

    def __post_init__(self) -> None:
        try:
            from headrace_plugins.tracing import export, spans  # noqa: F401
        except ImportError as missing:
            raise ValueError(
                f"needs OpenTelemetry, but {missing.name} is not installed; "
                "install 'headrace[otel]'"
            ) from None
        protocol = next(filter(None, map(os.environ.get, _PROTOCOLS)), _HTTP)
        if protocol != _HTTP:
            raise ValueError(f"sends {_HTTP}, but {_PROTOCOLS[1]} says something else; unset it")
        self._calls: Calls | None = None

    async def __aenter__(self) -> Self:
        """Have spans go where they should."""
        from headrace_plugins.tracing.export import opened
        from headrace_plugins.tracing.spans import Calls

        self._loop = asyncio.get_running_loop()
        self._export = opened(self._lose)
        tracer = self._export.provider.get_tracer("headrace", __version__)
        self._calls = Calls(tracer=tracer, most=int(self.largest) if self.content else 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Let the last ones go out."""
        await self._export.aclose()

    async def __call__(self, call: Call, call_next: Next) -> Reply:
        """Answer inside of a span that lasts until the reply is closed."""
        if self._calls is None:  # explained, not served
            return await call_next(call)
        return await self._calls(call, call_next)

    def _lose(self, count: int) -> None:
        """Count what was lost, in the gateway's own thread."""
        with suppress(RuntimeError):  # its loop is closed
            self._loop.call_soon_threadsafe(self.vitals.lose, "tracing", count)
