"""A success on its way back: the reply, its events, and what is held until it is closed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

import orjson
from starlette.datastructures import MutableHeaders

from headrace.framing import Frame, sse

if TYPE_CHECKING:
    from headrace.call import Call, Deadline
    from headrace.chain import Next
    from headrace.record import Attempt, Cached

Framing = Literal["json", "sse", "ndjson", "raw"]
Closer = Callable[[BaseException | None], Awaitable[None]]
Result = TypeVar("Result")
PluginT = TypeVar("PluginT")

_UNREAD: Any = object()

logger = logging.getLogger("headrace")


class Event:
    """One frame of a body: the bytes as they arrived, parsed when asked.

    `data` is what the frame carries without its framing; None for a mere comment.
    """

    __slots__ = ("_json", "data", "name", "raw")

    def __init__(self, raw: bytes, data: bytes | None = None, name: str | None = None) -> None:
        self.raw = raw
        self.data = data
        self.name = name
        self._json = _UNREAD

    @classmethod
    def of(cls, frame: Frame) -> Self:
        """The event a frame is."""
        return cls(*frame)

    @classmethod
    def saying(cls, value: Any, framing: Framing) -> Self:
        """A new event that carries `value`, a JSON value, framed for a reply of that `framing`."""
        data = orjson.dumps(value)
        raw = sse(data) if framing == "sse" else data + b"\n" if framing == "ndjson" else data
        event = cls(raw, data)
        event._json = value
        return event

    @property
    def json(self) -> Any:
        """The value it carries, read once; None where it is not JSON. Do not change it."""
        if self._json is _UNREAD:
            try:
                self._json = None if self.data is None else orjson.loads(self.data)
            except orjson.JSONDecodeError:
                self._json = None
        return self._json

    def __repr__(self) -> str:
        return f"Event({self.raw!r})"


class Reply:
    """A success whose first output has arrived.

    Whoever holds it may change it (`headers`, `through`, `watch`, `on_close`), and returns the same
    object. It is closed exactly once, by whoever asked for it last. `attempt` is the attempt it
    came from, `deadline` when whoever reads it has to give up; None where it was made here.
    `cached` is what a cache made of it; None where none stood in its way.
    """

    __slots__ = (
        *("attempt", "cached", "deadline", "events", "framing", "headers", "status"),
        *("_closed", "_closers", "_sources"),
    )

    def __init__(
        self,
        events: AsyncIterator[Event],
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        framing: Framing = "json",
    ) -> None:
        self.status = status
        self.headers = MutableHeaders(headers or {})
        self.framing = framing
        self.events = events
        self.attempt: Attempt | None = None
        self.cached: Cached | None = None
        self.deadline: Deadline | None = None
        self._sources: list[AsyncIterator[Event]] = [events]
        self._closers: list[Closer] = []
        self._closed = False

    @classmethod
    def plain(cls, value: Any, **options: Any) -> Self:
        """A whole answer of one JSON value."""
        return cls(_one(Event.saying(value, "json")), **options)

    def through(self, pipe: Callable[[AsyncIterator[Event]], AsyncIterator[Event]]) -> Self:
        """Send every event through `pipe`, an async generator function over the events so far."""
        self.events = pipe(self.events)
        self._sources.append(self.events)
        return self

    def watch(self, note: Callable[[Event], None]) -> Self:
        """Show every event to `note` as it passes, changing nothing."""

        async def noted(events: AsyncIterator[Event]) -> AsyncIterator[Event]:
            async for event in events:
                note(event)
                yield event

        return self.through(noted)

    def on_close(self, closer: Closer) -> Self:
        """Have `closer` awaited once when this is over, after those that were there before.

        It is given None after the last event, else what ended the reply early: a failure of the
        upstream, or `asyncio.CancelledError` when the client left or nobody wanted it.
        """
        self._closers.append(closer)
        return self

    async def aclose(self, error: BaseException | None = None) -> None:
        """Close from the inside out, to the end even if the caller is cancelled meanwhile."""
        if not self._closed:
            self._closed = True
            await shielded(self._close(error))

    async def _close(self, error: BaseException | None) -> None:
        steps: list[Awaitable[None]] = [_ending(source) for source in self._sources]
        steps += [closer(error) for closer in self._closers]
        for step in steps:
            try:
                await step
            except (Exception, asyncio.CancelledError):  # the next one must run all the same
                logger.exception("closing a reply failed")


async def _one(event: Event) -> AsyncIterator[Event]:
    yield event


async def _ending(source: AsyncIterator[Event]) -> None:
    if isinstance(source, AsyncGenerator):
        await source.aclose()


async def shielded(work: Awaitable[Result]) -> Result:
    """Wait for `work` to its end, then let a cancellation that came meanwhile go on."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
        except BaseException:  # noqa: BLE001  the work's own failure, told below
            break
    if cancelled and not task.cancelled():
        task.exception()
        raise cancelled
    return task.result()


def until_closed(
    plugin: Callable[[PluginT, Call, Next], AsyncIterator[Reply]],
) -> Callable[[PluginT, Call, Next], Awaitable[Reply]]:
    """Make a plugin of an async generator that yields its reply and goes on when that is closed.

    What ended the reply early is raised at the `yield`. The frame must hold no task group, time-out
    or cancel scope across it (PEP 789): it is resumed in another task.
    """

    @wraps(plugin)
    async def call_plugin(self: PluginT, call: Call, call_next: Next) -> Reply:
        frame = plugin(self, call, call_next)
        assert isinstance(frame, AsyncGenerator)
        reply: Reply | None = await anext(frame, None)
        if reply is None:
            raise RuntimeError(f"{plugin.__qualname__} must yield its reply once")

        async def resume(error: BaseException | None) -> None:
            try:
                await (anext(frame) if error is None else frame.athrow(error))
            except StopAsyncIteration:
                return
            except BaseException as raised:
                if raised is not error:
                    raise
                return
            await frame.aclose()
            raise RuntimeError(f"{plugin.__qualname__} must yield its reply once")

        return reply.on_close(resume)

    return call_plugin
