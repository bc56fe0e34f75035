"""How an attempt reads a reply: what is output, what is the end, what was used, what went wrong."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from dataclasses import replace

from headrace.body import crowded
from headrace.call import PASSTHROUGH, Call, Timeouts, WithUsage
from headrace.errors import UpstreamError
from headrace.framing import SSE
from headrace.record import Usage
from headrace.reply import Event, Reply

_END = 1024
_MOST_HELD = 256
_CHARACTERS_PER_TOKEN = 4
_LEAST_PATIENCE = 1.0


class Reading:
    """Reads nothing: right for a call that is passed through. The others begin from here."""

    framing = "raw"

    def __init__(self, call: Call) -> None:
        self.call = call
        self.dialect = call.dialect
        self.over = False
        """Whether the stream has said that nothing more comes."""
        self.model: str | None = None
        self.id: str | None = None
        self.finish: str | None = None
        self.counted: Usage | None = None

    @property
    def usage(self) -> Usage | None:
        """The tokens as far as they are known."""
        return self.counted

    def patience(self, timeouts: Timeouts) -> float:
        """Seconds to wait for the first output."""
        return timeouts.total

    async def first(self, events: AsyncIterator[Event]) -> list[Event]:
        """The events up to the first output. Raises `UpstreamError` where none comes."""
        return []

    def note(self, event: Event) -> None:
        """Take in one event. Raises `UpstreamError` where it tells a failure or is no event."""

    def passes(self, event: Event) -> bool:
        """Whether the client is to see it."""
        return True

    def complete(self) -> list[Event]:
        """What is missing at the end. Raises `UpstreamError` where the end came too early."""
        return []


class Plain(Reading):
    """Reads an answer that is one JSON value."""

    framing = "json"

    async def first(self, events: AsyncIterator[Event]) -> list[Event]:
        """The answer, checked."""
        event = await anext(events, None) or Event(b"")
        if crowded(event.raw.decode("latin-1"), values=math.inf):  # embeddings are many numbers
            raise _invalid("the upstream's answer holds more lists and objects than can be read")
        self.note(event)
        if not self.dialect.check(self.call.operation, event.json):
            raise _invalid("the upstream's answer lacks what an answer must have")
        return [event]

    def note(self, event: Event) -> None:
        """Take in failure, usage, model, id and finish."""
        if not isinstance(event.json, dict):
            raise _invalid("the upstream sent what is not a JSON object")
        if failure := self.dialect.failure(event):
            raise failure
        self.counted = self.dialect.usage(event) or self.counted
        self.model = self.model or self.dialect.model(event)
        self.id = self.id or self.dialect.id(event)
        self.finish = self.finish or self.dialect.finish(event)


class Stream(Plain):
    """Reads a stream: holds what is no output yet, and knows whether its end is the end."""

    framing = "sse"

    def __init__(self, call: Call) -> None:
        super().__init__(call)
        self._characters = 0
        self._shows_usage = call.told(WithUsage) is not None

    @property
    def usage(self) -> Usage | None:
        """What the upstream counted, else an estimate from what was said."""
        counted = self.counted or Usage()
        if counted.output is not None or not self._characters:
            return self.counted
        said = math.ceil(self._characters / _CHARACTERS_PER_TOKEN)
        return replace(counted, output=said, estimated=True)

    def patience(self, timeouts: Timeouts) -> float:
        """Seconds to wait for the first output; the OpenAI SDK sends its own bound along."""
        asked = self.call.headers.get("x-stainless-read-timeout", "")
        own = float(asked) if asked.replace(".", "", 1).isdecimal() else math.inf
        return min(timeouts.first_event, max(own, _LEAST_PATIENCE))

    async def first(self, events: AsyncIterator[Event]) -> list[Event]:
        """Roles and other signs of life, then the first output."""
        held: list[Event] = []
        while not self.over and (event := await anext(events, None)):
            self.note(event)
            if event.data is not None and self.passes(event):
                held.append(event)
            if self.dialect.is_output(event) or len(held) >= _MOST_HELD:
                return held
        raise _invalid("the upstream's stream ended before it said anything")

    def note(self, event: Event) -> None:
        """Take in what a frame tells; comments tell nothing."""
        if event.data is None:
            return
        if self.dialect.is_end(event):
            self.over = True
            return
        super().note(event)
        self._characters += len(self.dialect.text(event))

    def passes(self, event: Event) -> bool:
        """All but the usage that only the gateway asked for, unless a plugin wants it, too."""
        return self._shows_usage or not self.dialect.extra_usage(self.call, event)

    def complete(self) -> list[Event]:
        """The end mark, where the upstream finished without one."""
        if self.over:
            return []
        if self.finish is None:
            raise UpstreamError("the upstream's answer ended early", code="upstream_truncated")
        return [Event.of(frame) for frame in SSE(_END).feed(self.dialect.end or b"")]


def reading_of(call: Call) -> Reading:
    """The way to read the reply to this call."""
    if call.operation == PASSTHROUGH:
        return Reading(call)
    return Stream(call) if call.dialect.streams(call) else Plain(call)


async def first_of(reading: Reading, reply: Reply) -> list[Event]:
    """The events of `reply` up to its first output. Closes it where that fails."""
    try:
        if reading.framing not in ("raw", reply.framing):
            raise _invalid(f"the upstream answered as {reply.framing}, not as {reading.framing}")
        return await reading.first(reply.events)
    except BaseException as error:
        await reply.aclose(error)
        raise


def _invalid(message: str) -> UpstreamError:
    return UpstreamError(message, code="upstream_invalid")
