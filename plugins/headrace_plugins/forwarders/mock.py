"""An upstream that is none: it answers at once, and says what it is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from headrace import Call, Duration, Event, Found, Reply, Unsupported

_MODEL = "mock"


@dataclass(kw_only=True)
class Mock:
    """Answer without a model: every text is the same and says that it comes from a mock.

    For trying out a configuration, and for load that must not cost anything.
    """

    says: str = (
        "This is Headrace's mock upstream; no model was asked. "
        "Name a real upstream in gateway.yaml to get real answers."
    )
    """The text of every answer."""
    pace: Duration = field(default_factory=lambda: Duration(0))
    """How long to wait before each word of a stream; an answer in one piece takes no time."""

    async def __call__(self, call: Call) -> Reply:
        """A chat completion, a completion, or embeddings of zeros and a one."""
        match call.operation:
            case "chat" | "completion":
                if call.dialect.streams(call):
                    return Reply(self._chunks(call), framing="sse")
                return Reply.plain(self._whole(call))
            case "embedding":
                return Reply.plain(_embeddings(call.members.get("input")))
        if call.method == "GET" and call.path in ("/v1/models", "/models"):
            return Reply.plain({"object": "list", "data": [{"id": _MODEL, "object": "model"}]})
        raise Unsupported(
            f"the mock upstream knows no {call.operation} calls",
            code="mock_unsupported",
            status=404,
        )

    async def models(self) -> list[str]:
        """The one model it has."""
        return [_MODEL]

    @classmethod
    async def find(cls, environ: Mapping[str, str]) -> list[Found]:
        """Always there, and the last one to be asked."""
        return [Found(name="mock", says="says that it is a mock", models=(_MODEL,), rank=100)]

    def _whole(self, call: Call) -> dict[str, Any]:
        said = {"message": {"role": "assistant", "content": self.says}}
        choice = {"index": 0, **(said if call.operation == "chat" else {"text": self.says})}
        choices = [{**choice, "logprobs": None, "finish_reason": "stop"}]
        return {**_head(call), "choices": choices, "usage": _usage(self.says)}

    async def _chunks(self, call: Call) -> AsyncIterator[Event]:
        head = _head(call, ".chunk" if call.operation == "chat" else "")
        chat = call.operation == "chat"

        def chunk(said: str | None, finish: str | None = None) -> Event:
            delta = {"content": said} if said is not None else {}
            part = {"delta": delta} if chat else {"text": said or ""}
            choice = {"index": 0, **part, "logprobs": None, "finish_reason": finish}
            return Event.saying({**head, "choices": [choice]}, "sse")

        if chat:
            role = {"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}
            yield Event.saying({**head, "choices": [role]}, "sse")
        for number, word in enumerate(self.says.split(" ")):
            await asyncio.sleep(self.pace)
            yield chunk(word if number == 0 else f" {word}")
        yield chunk(None, "stop")
        options = call.members.get("stream_options")
        if isinstance(options, dict) and options.get("include_usage"):
            yield Event.saying({**head, "choices": [], "usage": _usage(self.says)}, "sse")
        yield Event(b"data: [DONE]\n\n", b"[DONE]")


def _head(call: Call, suffix: str = "") -> dict[str, Any]:
    kind = "chat.completion" if call.operation == "chat" else "text_completion"
    return {
        "id": f"chatcmpl-{call.id}",
        "object": kind + suffix,
        "created": int(time.time()),
        "model": _MODEL,
    }


def _usage(text: str) -> dict[str, int]:
    words = len(text.split())
    return {"prompt_tokens": 0, "completion_tokens": words, "total_tokens": words}


def _embeddings(texts: Any) -> dict[str, Any]:
    # A list of numbers is one text, given as tokens.
    several = isinstance(texts, list) and not any(isinstance(text, int) for text in texts)
    count = len(texts) if several else 1
    vector = [1.0, *[0.0] * 7]
    data = [{"object": "embedding", "index": i, "embedding": vector} for i in range(count)]
    usage = {"prompt_tokens": 0, "total_tokens": 0}
    return {"object": "list", "data": data, "model": _MODEL, "usage": usage}
