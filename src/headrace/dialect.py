"""What a dialect is, and OpenAI's, the form in between.

A dialect is the shape of the messages that a client or an upstream speaks. Its client side
(`Dialect`) owns the paths it serves, its errors, its end of stream, and how to read a reply. Its
upstream side (`Translation`) turns OpenAI's form into its own and back. The two may live in one
class or not exist at all.

OpenAI's shapes are those of platform.openai.com/docs/api-reference: "Create chat completion",
"The chat completion chunk object", "Create completion", "Create embeddings", "List models".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import orjson

from headrace.call import Call
from headrace.errors import BadRequest, CallError, UpstreamError
from headrace.framing import sse
from headrace.record import Usage
from headrace.reply import Event, Reply


class Dialect(Protocol):
    """A shape that clients speak: where they ask, and how their replies are read and ended."""

    name: ClassVar[str]
    end: ClassVar[bytes | None]
    """What stands at the end of a complete stream, framed; None where nothing does."""

    def operation(self, method: str, path: str) -> str | None:
        """What a request to this path asks for; None where the path is not this dialect's."""

    def path(self, operation: str) -> str:
        """Where an upstream of this dialect answers an operation, below its base URL."""

    def asked(self, call: Call) -> str:
        """The model the client names. Raises `BadRequest` where it names none."""

    def towards(self, call: Call, model: str) -> Call:
        """The call with another model; the same bytes where it is the same."""

    def streams(self, call: Call) -> bool:
        """Whether the client wants the reply as a stream."""

    def asking_usage(self, call: Call) -> Call:
        """The call asking for its usage too, where a stream would not tell it unasked."""

    def extra_usage(self, call: Call, event: Event) -> bool:
        """Whether an event is there only because `asking_usage` asked for it."""

    def check(self, operation: str, value: Any) -> bool:
        """Whether a whole answer has the shape that this operation's answers have."""

    def is_output(self, event: Event) -> bool:
        """Whether this is something said, not only a role or a sign of life."""

    def is_end(self, event: Event) -> bool:
        """Whether nothing comes after this event of a stream."""

    def text(self, event: Event) -> str:
        """The text an event adds for the person who reads it."""

    def tool_calls(self, event: Event) -> Sequence[Mapping[str, Any]]:
        """The tool calls, or parts of them, that an event carries, in OpenAI's form."""

    def model(self, event: Event) -> str | None:
        """The model that answers, by the event's own word."""

    def id(self, event: Event) -> str | None:
        """What the upstream calls the answer that an event belongs to."""

    def usage(self, event: Event) -> Usage | None:
        """The tokens an event reports."""

    def finish(self, event: Event) -> str | None:
        """Why generation ended, if this event says that it did."""

    def finishes(self, event: Event) -> Mapping[int, str | None]:
        """Why each choice of an event ended, by its number; None of one that goes on."""

    def failure(self, event: Event) -> UpstreamError | None:
        """The failure an event tells, inside a stream or a 200 answer."""

    def error(self, error: CallError) -> bytes:
        """The body of an answer that tells an error."""

    def error_event(self, error: CallError) -> bytes:
        """The last frame of a stream that failed after its first output."""


class Translation(Protocol):
    """An upstream's dialect: from OpenAI's form to its own, and back."""

    name: ClassVar[str]

    def request(self, call: Call) -> Call:
        """The call in this dialect, body and path. Raises `Unsupported` for what has no place."""

    def reply(self, call: Call, reply: Reply) -> Reply:
        """The upstream's reply in OpenAI's form, for the call as it was in OpenAI's form."""


_PATHS = {
    "chat": "/chat/completions",
    "completion": "/completions",
    "embedding": "/embeddings",
    "models": "/models",
    "me": "/me",  # the gateway's own: who asks, and what is theirs
}
_GOT = ("models", "me")
_OPERATIONS = {("GET" if name in _GOT else "POST", path): name for name, path in _PATHS.items()}


class OpenAI:
    """OpenAI's own shape, with and without `/v1`."""

    name: ClassVar[str] = "openai"
    end: ClassVar[bytes | None] = b"data: [DONE]\n\n"

    def operation(self, method: str, path: str) -> str | None:
        """chat, completion, embedding, models, or me."""
        bare = path.removeprefix("/v1").rstrip("/")
        if method == "GET" and bare.startswith("/models/"):
            return "models"
        return _OPERATIONS.get((method, bare))

    def path(self, operation: str) -> str:
        """Where an upstream answers, below a base URL that ends in `/v1`."""
        return _PATHS[operation]

    def asked(self, call: Call) -> str:
        """The member `model`."""
        model = call.members.get("model")
        if not isinstance(model, str) or not model:
            found = "nothing" if model is None else repr(model)[:80]
            raise BadRequest(
                f"'model' must be a model's name, found {found}; GET /v1/models lists them",
                param="model", code="missing_model" if model is None else "invalid_model",
            )  # fmt: skip
        if not model.isprintable() or len(model) > 256:
            raise BadRequest(
                "'model' must be at most 256 printable characters",
                param="model", code="invalid_model",
            )  # fmt: skip
        return model

    def towards(self, call: Call, model: str) -> Call:
        """The member `model` replaced where it stands."""
        return call if call.members.get("model") == model else call.edit(model=model)

    def streams(self, call: Call) -> bool:
        """`stream: true`, where the operation knows streams."""
        wanted = call.members.get("stream")
        if wanted is not None and not isinstance(wanted, bool):
            raise BadRequest(
                f"'stream' must be true or false, found {str(wanted)[:80]!r}",
                param="stream", code="invalid_type",
            )  # fmt: skip
        return bool(wanted) and call.operation in ("chat", "completion")

    def asking_usage(self, call: Call) -> Call:
        """`stream_options.include_usage` set."""
        if not self.streams(call) or self._asks_usage(call):
            return call
        options = call.members.get("stream_options")
        known = options if isinstance(options, dict) else {}
        return call.edit(stream_options={**known, "include_usage": True})

    def extra_usage(self, call: Call, event: Event) -> bool:
        """The last chunk, with usage and no choices, for a client that did not ask for it."""
        value = event.json
        return (
            isinstance(value, dict)
            and value.get("choices") == []
            and bool(value.get("usage"))
            and not self._asks_usage(call)
        )

    def _asks_usage(self, call: Call) -> bool:
        options = call.members.get("stream_options")
        return isinstance(options, dict) and options.get("include_usage") is True

    def check(self, operation: str, value: Any) -> bool:
        """An object whose `choices` (or `data`) is a non-empty list of objects."""
        items = value.get("data" if operation == "embedding" else "choices")
        return bool(items) and isinstance(items, list) and all(isinstance(i, dict) for i in items)

    def is_output(self, event: Event) -> bool:
        """A delta with anything but a role, text, a finish, or a whole message."""
        return any(
            choice.get("finish_reason")
            or choice.get("text")
            or any(value for key, value in _said(choice).items() if key != "role")
            for choice in _choices(event)
        )

    def is_end(self, event: Event) -> bool:
        """`data: [DONE]`."""
        return event.data is not None and event.data.strip() == b"[DONE]"

    def text(self, event: Event) -> str:
        """`content` of deltas and messages, `text` of completions."""
        return "".join(_texts(event))

    def tool_calls(self, event: Event) -> Sequence[Mapping[str, Any]]:
        """`tool_calls` of deltas and messages."""
        calls = (_said(choice).get("tool_calls") for choice in _choices(event))
        return [call for some in calls if isinstance(some, list) for call in some]

    def model(self, event: Event) -> str | None:
        """The member `model`."""
        return _member(event, "model")

    def id(self, event: Event) -> str | None:
        """The member `id`."""
        return _member(event, "id")

    def usage(self, event: Event) -> Usage | None:
        """The member `usage` with its details, in their old and new names."""
        value = event.json
        usage = value.get("usage") if isinstance(value, dict) else None
        if not isinstance(usage, dict):
            return None
        return Usage(
            input=_count(usage, "prompt_tokens"),
            output=_count(usage, "completion_tokens"),
            cached=_count(usage.get("prompt_tokens_details"), "cached_tokens"),
            reasoning=_count(usage.get("completion_tokens_details"), "reasoning_tokens"),
        )

    def finish(self, event: Event) -> str | None:
        """The first `finish_reason` that is set."""
        reasons = (choice.get("finish_reason") for choice in _choices(event))
        return next((str(reason) for reason in reasons if reason), None)

    def finishes(self, event: Event) -> Mapping[int, str | None]:
        """Every `finish_reason`."""
        found: dict[int, str | None] = {}
        for number, choice in enumerate(_choices(event)):
            index, reason = choice.get("index"), choice.get("finish_reason")
            found[index if isinstance(index, int) else number] = str(reason) if reason else None
        return found

    def failure(self, event: Event) -> UpstreamError | None:
        """The member `error`, an event of that name, or vLLM's `{"object": "error", ...}`."""
        value = event.json
        error = value.get("error") if isinstance(value, dict) else None
        if isinstance(value, dict) and value.get("object") == "error":
            error = value
        if not error and event.name != "error":
            return None
        code = error.get("code") if isinstance(error, dict) else None
        status = code if isinstance(code, int) and 400 <= code < 600 else 502
        return UpstreamError.refused(status, event.data or b"")

    def error(self, error: CallError) -> bytes:
        """`{"error": {message, type, param, code}}`, and the attempts if there were several."""
        told = {
            "message": error.message,
            "type": error.type,
            "param": error.param,
            "code": error.code,
        }
        return orjson.dumps({"error": {**told, "attempts": error.tried} if error.tried else told})

    def error_event(self, error: CallError) -> bytes:
        """The same as one event; no `[DONE]` follows it."""
        return sse(self.error(error))


OPENAI = OpenAI()


def _member(event: Event, name: str) -> str | None:
    value = event.json
    member = value.get(name) if isinstance(value, dict) else None
    return member if isinstance(member, str) else None


def _choices(event: Event) -> Iterator[Mapping[str, Any]]:
    value = event.json
    choices = value.get("choices") if isinstance(value, dict) else None
    if not isinstance(choices, list):
        return iter(())
    return (choice for choice in choices if isinstance(choice, dict))


def _said(choice: Mapping[str, Any]) -> Mapping[str, Any]:
    said = choice.get("delta") or choice.get("message")
    return said if isinstance(said, dict) else {}


def _texts(event: Event) -> Iterator[str]:
    for choice in _choices(event):
        text = choice.get("text") or _said(choice).get("content")
        if isinstance(text, str):
            yield text


def _count(counts: Any, name: str) -> int | None:
    count = counts.get(name) if isinstance(counts, dict) else None
    return count if type(count) is int and count >= 0 else None
