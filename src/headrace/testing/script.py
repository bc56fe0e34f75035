"""An upstream that follows a script, for tests of what stands in front of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from headrace.call import Call, leaves
from headrace.errors import UpstreamError
from headrace.record import Attempt
from headrace.reply import Event, Reply

Act = Callable[["Upstream", Call], Any]
"""One answer of a script: `async (upstream, call) -> Reply`."""


class Upstream:
    """Answers each call with the next act of its script; the last act is repeated.

    `asked` are the upstream names that were asked, in order, `calls` the calls as they arrived.
    `open` counts the replies that are not closed yet, `closed` those that are.
    """

    def __init__(self) -> None:
        self._acts: list[Act] = [says("hello")]
        self.asked: list[str] = []
        self.calls: list[Call] = []
        self.open = 0
        self.closed = 0
        self.cancelled = 0
        self.began = asyncio.Event()

    def script(self, *acts: Act) -> None:
        """What to do, call by call."""
        self._acts = list(acts)

    async def __call__(self, call: Call) -> Reply:
        """Do the next act."""
        attempt = call.told(Attempt)
        target = attempt.target if attempt else next(leaves(call.targets))
        self.asked.append(target.upstream)
        self.calls.append(call)
        self.began.set()
        act = self._acts.pop(0) if len(self._acts) > 1 else self._acts[0]
        try:
            reply: Reply = await act(self, call)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.open += 1

        async def closed(error: BaseException | None) -> None:
            self.open -= 1
            self.closed += 1

        return reply.on_close(closed)


def chunk(model: str = "scripted", **delta: Any) -> dict[str, Any]:
    """A chat completion chunk with this delta; `finish` and `usage` go to their own members."""
    finish = delta.pop("finish", None)
    usage = delta.pop("usage", None)
    choices = [] if usage else [{"index": 0, "delta": delta, "finish_reason": finish}]
    told = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model}
    return {**told, "choices": choices, **({"usage": usage} if usage else {})}


def says(*words: str, usage: tuple[int, int] = (3, 2)) -> Act:
    """A complete answer: a stream, an event for each word, where the call wants one."""

    async def act(upstream: Upstream, call: Call) -> Reply:
        if call.operation == "embedding":
            data = [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}]
            return Reply.plain({"object": "list", "data": data, "model": "scripted"})
        if call.dialect.streams(call):
            return Reply(_stream(call, words, usage), framing="sse")
        return Reply.plain(_whole("".join(words), usage))

    return act


def breaks(*words: str) -> Act:
    """A stream that is cut off after these words."""

    async def act(upstream: Upstream, call: Call) -> Reply:
        async def events() -> AsyncIterator[Event]:
            for word in words:
                yield Event.saying(chunk(content=word), "sse")
            raise UpstreamError("the connection broke", code="upstream_truncated")

        return Reply(events(), framing="sse")

    return act


def sends(*frames: bytes) -> Act:
    """A stream of these very events, each the data of one frame."""

    async def act(upstream: Upstream, call: Call) -> Reply:
        async def events() -> AsyncIterator[Event]:
            for data in frames:
                yield Event(b"data: " + data + b"\n\n", data)

        return Reply(events(), framing="sse")

    return act


def down() -> Act:
    """Nobody is there."""
    return refuses(code="connect_failed")


def refuses(status: int = 502, *, code: str | None = None, **options: Any) -> Act:
    """An answer with this status, or a failure with this code."""

    async def act(upstream: Upstream, call: Call) -> Reply:
        if code:
            raise UpstreamError("scripted failure", code=code, status=status, **options)
        raise UpstreamError.refused(status, b'{"error": {"message": "scripted"}}', **options)

    return act


def silent() -> Act:
    """Nothing, until somebody gives up."""

    async def act(upstream: Upstream, call: Call) -> Reply:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    return act


def stalls(*words: str) -> Act:
    """These words, then nothing."""

    async def act(upstream: Upstream, call: Call) -> Reply:
        async def events() -> AsyncIterator[Event]:
            for word in words:
                yield Event.saying(chunk(content=word), "sse")
            await asyncio.Event().wait()

        return Reply(events(), framing="sse")

    return act


async def _stream(
    call: Call, words: tuple[str, ...], usage: tuple[int, int]
) -> AsyncIterator[Event]:
    yield Event.saying(chunk(role="assistant", content=""), "sse")
    for word in words:
        yield Event.saying(chunk(content=word), "sse")
    yield Event.saying(chunk(finish="stop"), "sse")
    if (call.members.get("stream_options") or {}).get("include_usage"):
        yield Event.saying(chunk(usage=_usage(usage)), "sse")
    yield Event(b"data: [DONE]\n\n", b"[DONE]")


def _whole(text: str, usage: tuple[int, int]) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "scripted",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": _usage(usage),
    }


def _usage(usage: tuple[int, int]) -> dict[str, int]:
    prompt, completion = usage
    total = prompt + completion
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}
