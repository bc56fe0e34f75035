"""The wall between ASGI and calls; the only code that sees `scope`, `receive` and `send`.

Pure ASGI (asgi.readthedocs.io/en/latest/specs/www.html). It opens the record before it reads the
request, watches for the client's leaving until the last byte, sends what the chain replies or
raises, and closes the record.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from headrace.call import PASSTHROUGH, Call, Deadline
from headrace.caller import Caller
from headrace.chain import Next
from headrace.dialect import OPENAI, Dialect
from headrace.errors import (
    BadRequest,
    CallError,
    Loop,
    Overloaded,
    TimedOut,
    Unauthorized,
    UpstreamError,
)
from headrace.intake import Bounds, check_head, check_local, check_media, check_site, too_large
from headrace.record import Observer, Observers, Record
from headrace.reply import Reply, shielded
from headrace.sending import ClientGone, Pings, Sending
from headrace.telling import hints, tried

logger = logging.getLogger("headrace")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_MEDIA = {
    "json": "application/json",
    "sse": "text/event-stream; charset=utf-8",
    "ndjson": "application/x-ndjson",
    "raw": "application/octet-stream",
}
_STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


class Edge:
    """The gateway as an ASGI application for HTTP, in front of `answer`, its finished chain.

    `name` marks calls that passed here, so that one that comes back is seen. `caller` finds the
    user that a host application has already found. `local_only` refuses requests for any host but
    this machine, so that no page in a browser can pass itself off as one. What is `serving` may be
    shared with the edges of other configurations.
    """

    def __init__(
        self,
        answer: Next,
        *,
        name: str,
        dialects: Sequence[Dialect] = (OPENAI,),
        observers: Iterable[Observer] = (),
        bounds: Bounds = Bounds(),
        pings: Pings = Pings(),
        caller: Callable[[Scope], Caller | None] | None = None,
        local_only: bool = False,
        serving: set[_Exchange] | None = None,
    ) -> None:
        self.answer = answer
        self.name = name
        self.dialects = dialects
        self.observers = tuple(observers)
        self.bounds = bounds
        self.pings = pings
        self.caller = caller
        self.local_only = local_only
        self._serving: set[_Exchange] = set() if serving is None else serving

    @property
    def serving(self) -> int:
        """How many requests are under way."""
        return len(self._serving)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        exchange = _Exchange(self, scope, receive, send)
        self._serving.add(exchange)
        try:
            await exchange.serve()
        finally:
            self._serving.discard(exchange)
            Observers(self.observers).tell(exchange.record)

    def cut(self) -> None:
        """End every request that is under way, each with an error that says why."""
        for exchange in tuple(self._serving):
            exchange.cut(Overloaded("this gateway is shutting down", code="shutting_down"))


def path_below(scope: Scope) -> str:
    """The path below the prefix the gateway is mounted at."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "").rstrip("/")) or "/"


class _Exchange:
    """One request and its answer."""

    def __init__(self, edge: Edge, scope: Scope, receive: Receive, send: Send) -> None:
        self._edge = edge
        self._scope = scope
        self._receive = receive
        self._headers = Headers(scope=scope)
        self._dialect: Dialect = OPENAI
        self._early = False
        """Whether a stream has begun of which nothing is there yet."""
        self._work: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._why: CallError | None = None
        self._loop = asyncio.get_running_loop()
        self._timers: list[asyncio.TimerHandle] = []
        asked = self._headers.get("x-request-id", "")
        self.record = Record(
            id=asked if _REQUEST_ID.fullmatch(asked) else f"req_{uuid.uuid4().hex}",
            method=scope["method"],
            path=path_below(scope),
            client=(scope.get("client") or (None,))[0],
        )
        self._out = Sending(
            send,
            self.record,
            stall=edge.bounds.write_stall,
            pings=edge.pings,
            give_up=self._give_up,
        )

    def cut(self, why: CallError) -> None:
        """End this request, telling the client `why`."""
        if self._why is None:
            self._why = why
            if self._work:
                self._work.cancel()

    async def serve(self) -> None:
        """Read, answer, and know all the while whether the client is still there."""
        work = self._work = asyncio.ensure_future(self._respond())
        try:
            await asyncio.wait((work,))
        finally:
            for timer in self._timers:
                timer.cancel()
            work.cancel()
            await shielded(asyncio.wait((work,)))
            await shielded(self._out.aclose())
            self._over()
            if self.record.outcome is None:
                self._left()
            if not work.cancelled():
                with suppress(ClientGone):
                    work.result()

    def _give_up(self) -> None:
        """End this request, for its client reads nothing."""
        if self._work:
            self._why = None
            self.record.left = True
            self._work.cancel()

    def _left(self) -> None:
        if not self._out.started:
            self.record.status = 499
        self.record.close("client_closed")

    async def _gone(self) -> None:
        """Ends the work when the client leaves."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.record.left = True
        if self._work:
            self._work.cancel()

    def _over(self) -> None:
        """Stop watching: with the last byte on its way, nobody can leave any more."""
        if self._watch:
            self._watch.cancel()

    # Reading

    async def _read(self) -> Call:
        record, bounds = self.record, self._edge.bounds
        operation = self._operation()
        check_head(self._scope, self._headers, record.path, bounds)
        if self._edge.local_only:
            check_local(self._headers)
        passed = ", ".join(self._headers.getlist("cdn-loop"))
        if self._edge.name in re.split(r"[\s,;]+", passed):
            raise Loop("this request has passed through this gateway before")
        if operation == PASSTHROUGH:
            check_site(self._headers)
        elif record.method == "POST":
            check_media(self._headers)
        record.operation = operation
        try:
            async with asyncio.timeout(bounds.read):
                body = await self._body(bounds.body)
        except TimeoutError:
            raise BadRequest(
                f"the request's body did not arrive within {bounds.read:g} s", code="body_timeout"
            ) from None
        record.caller = self._host_caller()
        marked = [(k, v) for k, v in self._headers.raw if k != b"cdn-loop"]
        marked.append((b"cdn-loop", f"{passed}, {self._edge.name}".lstrip(", ").encode("latin-1")))
        return Call(
            id=record.id,
            method=record.method,
            path=record.path,
            query=self._scope.get("query_string", b"").decode("latin-1"),
            headers=Headers(raw=marked),
            body=body,
            dialect=self._dialect,
            operation=operation,
            caller=record.caller,
            deadline=Deadline(math.inf),  # the route sets it
            record=record,
            facts=(Observers(self._edge.observers),),
        )

    def _host_caller(self) -> Caller | None:
        if self._edge.caller is None:
            return None
        found = self._edge.caller(self._scope)
        if found is None:
            raise Unauthorized("the application around this gateway does not know who asks")
        return found

    def _operation(self) -> str:
        for dialect in self._edge.dialects:
            if operation := dialect.operation(self.record.method, self.record.path):
                self._dialect = dialect
                return operation
        return PASSTHROUGH

    async def _body(self, limit: int) -> bytes:
        chunks: list[bytes] = []
        length = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            chunks.append(message.get("body", b""))
            length += len(chunks[-1])
            if length > limit:
                raise too_large(limit)
            if not message.get("more_body", False):
                return b"".join(chunks)

    # Answering

    async def _respond(self) -> None:
        """Answer the call. A cancellation means that the client left, or that we cut it off."""
        reply: Reply | None = None
        try:
            call = await self._read()
            self._watch = asyncio.ensure_future(self._gone())
            if early := self._edge.pings.early:
                self._timers.append(self._loop.call_later(early, self._begin_early, call))
            reply = await self._edge.answer(call)
            if reply.deadline:
                over = TimedOut("the time for this call is over")
                self._timers.append(self._loop.call_at(reply.deadline.at, self.cut, over))
            await self._deliver(reply)
        except CallError as error:
            await self._fail(error, reply)
        except asyncio.CancelledError as cancelled:
            if self._why is None:
                await _close(reply, cancelled)
                raise
            await self._fail(self._why, reply)
        except ClientGone as gone:
            self.record.left = True
            await _close(reply, asyncio.CancelledError(str(gone)))
        except Exception as bug:
            logger.exception("request %s failed by a fault of this gateway", self.record.id)
            self.record.said = type(bug).__name__
            await self._fail(CallError("the gateway failed; its log says why"), reply)

    def _begin_early(self, call: Call) -> None:
        """Let a stream begin of which nothing is there yet."""
        with suppress(CallError):  # what is wrong with it is told elsewhere
            if not self._out.started and self._dialect.streams(call):
                self._early = self.record.stream = True
                self._out.start_early({"content-type": _MEDIA["sse"], **_STREAM_HEADERS})

    async def _deliver(self, reply: Reply) -> None:
        record = self.record
        if self._out.started and (reply.framing, reply.status) != ("sse", 200):
            message = f"the answer came as {reply.framing}, but a stream has begun"
            raise UpstreamError(message, code="upstream_invalid")
        self._early = False
        record.answered = reply.attempt
        record.cache = reply.cached or record.cache
        record.stream = reply.framing != "json"
        headers = {"content-type": _MEDIA[reply.framing], **dict(reply.headers.items())}
        if reply.framing != "raw":  # what it is was read, whatever the upstream called it
            headers["content-type"] = _MEDIA[reply.framing]
        headers["x-content-type-options"] = "nosniff"
        if record.stream:
            headers |= _STREAM_HEADERS
            first = await anext(reply.events, None)
            if not self._out.started:
                await self._out.start(reply.status, headers)
            if first:
                await self._out.write(first.raw)
            rest = b""
            async for event in reply.events:
                if self._dialect.is_end(event):
                    rest = event.raw
                else:
                    await self._out.write(event.raw)
        else:
            rest = b"".join([event.raw async for event in reply.events])
            headers["content-length"] = str(len(rest))
        await reply.aclose()
        if not record.stream:
            await self._out.start(reply.status, headers)
        await self._finish(rest)
        record.close("ok")

    async def _fail(self, error: CallError, reply: Reply | None = None) -> None:
        """Tell an error: as the answer if nothing was sent yet, else inside the stream."""
        await _close(reply, error)
        record, begun = self.record, self._out.started
        record.code = error.code
        record.said = record.said or error.for_log
        if begun and not self._early:
            record.close("incomplete")
        else:
            failed = error.status >= 500 or bool(record.attempts)
            record.close("failed" if failed and not error.wanted else "refused")
        if not begun:
            await self._refuse(error)
        elif self._early or (reply and reply.framing == "sse"):
            await self._out.write(self._dialect.error_event(error))
            await self._finish(b"")
        # Any other body is left without its end, which is how HTTP tells that it is not whole.

    async def _refuse(self, error: CallError) -> None:
        if len(self.record.attempts) > 1:
            error.tried = tried(self.record)
        body = self._dialect.error(error)
        media = _MEDIA["json"]
        passed = self.record.operation == PASSTHROUGH
        if passed and isinstance(error, UpstreamError) and error.said == error.status:
            body = error.body or body
            media = error.headers.get("content-type", media)
        headers = {**error.headers, **hints(error, self.record)}
        headers |= {"content-type": media, "content-length": str(len(body))}
        await self._out.start(error.status, headers)
        await self._finish(body if self.record.method != "HEAD" else b"")

    async def _finish(self, body: bytes) -> None:
        self._over()
        await self._out.finish(body)


async def _close(reply: Reply | None, error: BaseException) -> None:
    if reply:
        await reply.aclose(error)
