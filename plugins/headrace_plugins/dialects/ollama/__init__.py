"""Ollama's own API, the upstream side: OpenAI's form to `/api/chat`, `/api/generate`, `/api/embed`.

Shapes are those of docs/api.md at github.com/ollama/ollama. What a member of OpenAI's becomes is
what Ollama's own compatible layer makes of it (openai/openai.go there); where that layer drops
something in silence, it is mapped, refused, or named in `x-headrace-dropped` here.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any, ClassVar

from headrace import BadRequest, Call, Reply, Unsupported, UpstreamError
from headrace_plugins.dialects.ollama.carried import dropped, refuse
from headrace_plugins.dialects.ollama.replies import chunks, whole
from headrace_plugins.dialects.ollama.requests import chat, embed, generate

_OPERATIONS = {
    "chat": ("/api/chat", chat),
    "completion": ("/api/generate", generate),
    "embedding": ("/api/embed", embed),
}


class Ollama:
    """Ollama's native API."""

    name: ClassVar[str] = "ollama"

    def request(self, call: Call) -> Call:
        """The call in the form, and for the path, that Ollama has for its operation."""
        if call.operation not in _OPERATIONS:
            raise Unsupported(
                f"an Ollama server has no answer to {call.operation} calls",
                code="unsupported_operation",
            )
        refuse(call)
        path, body = _OPERATIONS[call.operation]
        return call.replace(path=path, body=_dump(body(call)))

    def reply(self, call: Call, reply: Reply) -> Reply:
        """The reply as OpenAI would give it, plain or as a stream."""
        if reply.framing not in ("ndjson", "json"):
            raise UpstreamError(
                f"the upstream answered as {reply.framing}, where Ollama sends lines of JSON",
                code="upstream_invalid",
            )
        streamed = call.dialect.streams(call)
        del reply.headers["content-type"]
        if names := dropped(call):
            reply.headers["x-headrace-dropped"] = ", ".join(names)
        reply.framing = "sse" if streamed else "json"
        return reply.through(partial(chunks if streamed else whole, call))


def _dump(body: dict[str, Any]) -> bytes:
    try:
        text = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return text.encode()
    except (ValueError, RecursionError):
        # The body was read strictly, so it is in the arguments of a tool call, a text inside it.
        raise BadRequest(
            "a tool call has arguments that are not usable JSON: half a character, "
            "no number, or too many levels",
            param="messages", code="invalid_json",
        ) from None  # fmt: skip
