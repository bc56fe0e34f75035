"""What was asked and said, as JSON of messages: cut to a size, and without a secret.

The form is that of docs/gen-ai/gen-ai-input-messages.json and gen-ai-output-messages.json at
github.com/open-telemetry/semantic-conventions-genai.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from headrace import Call, Dialect, Event


class Pen:
    """Writes texts as long as there is room for `most` characters."""

    def __init__(self, most: int, secrets: Sequence[str]) -> None:
        self.left = most
        self._secrets = sorted(filter(None, secrets), key=len, reverse=True)
        self._longest = max(map(len, self._secrets), default=0)

    @property
    def needed(self) -> int:
        """How many characters of a text are enough to write all of it that there is room for."""
        return self.left + self._longest + 1

    def text(self, text: str) -> str:
        """As much of a text as there is room for."""
        shown = text[: self.needed].encode(errors="replace").decode()
        whole = len(text) <= self.needed
        for secret in self._secrets:
            shown = shown.replace(secret, "***")
        if not whole:  # it may end in a part of a secret
            shown = shown[: len(shown) - self._longest]
        written = shown[: self.left]
        self.left -= len(written)
        return written if whole and written == shown else f"{written}…"

    def value(self, value: Any) -> Any:
        """The same for every text in a value."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.value(each) for each in value]
        if isinstance(value, dict):
            return {name: self.value(each) for name, each in value.items()}
        return value


def asked(call: Call, pen: Pen) -> str:
    """The messages or prompts of a call, of which the last ones come first to be told."""
    written: list[Any] = []
    for message in reversed(_messages(call)):
        if pen.left <= 0:
            break
        written.append(pen.value(_message(message)))
    return orjson.dumps(written[::-1]).decode()


def _messages(call: Call) -> Sequence[Any]:
    match call.operation, call.members:
        case "chat", {"messages": list(messages)}:
            return messages
        case "completion", {"prompt": str(prompt)}:
            return [{"role": "user", "content": prompt}]
        case "completion", {"prompt": list(prompts)}:
            return [{"role": "user", "content": prompt} for prompt in prompts]
    return []


def _message(said: Any) -> Mapping[str, Any]:
    if not isinstance(said, dict):
        return {"role": "", "parts": []}
    role = said.get("role")
    parts = [*_parts(said.get("content")), *map(_tool_call, _listed(said.get("tool_calls")))]
    if role == "tool":
        texts = "".join(part.get("content", "") for part in parts)
        response = {"id": said.get("tool_call_id"), "response": texts}
        parts = [{"type": "tool_call_response", **_texts(response)}]
    return {"role": role if isinstance(role, str) else "", "parts": parts}


def _parts(content: Any) -> Iterator[dict[str, Any]]:
    """Texts as they are; of pictures, sounds and files, that there were some."""
    for part in [content] if isinstance(content, str) else _listed(content):
        text = part.get("text") if isinstance(part, dict) else part
        if isinstance(text, str):
            yield {"type": "text", "content": text}
        elif isinstance(part, dict):
            yield _texts({"type": part.get("type")})


def _tool_call(called: Any) -> dict[str, Any]:
    called = called if isinstance(called, dict) else {}
    function = called.get("function")
    function = function if isinstance(function, dict) else {}
    told = {"id": called.get("id"), **{name: function.get(name) for name in ("name", "arguments")}}
    return {"type": "tool_call", **_texts(told)}


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _texts(members: Mapping[str, Any]) -> dict[str, str]:
    return {name: value for name, value in members.items() if isinstance(value, str)}


class Answer:
    """What a reply says, collected event by event as long as there is room for it."""

    def __init__(self, dialect: Dialect, pen: Pen) -> None:
        self._dialect = dialect
        self._pen = pen
        self._room = pen.needed
        self._said: list[str] = []
        self._calls: dict[Any, dict[str, str]] = {}

    def note(self, event: Event) -> None:
        """Take in one event."""
        if self._room <= 0:
            return
        text = self._dialect.text(event)
        self._said.append(text)
        self._room -= len(text)
        for number, piece in enumerate(self._dialect.tool_calls(event)):
            told = _tool_call(piece)
            known = self._calls.setdefault(str(piece.get("index", number)), told)
            if known is not told and "arguments" in told:
                known["arguments"] = known.get("arguments", "") + told["arguments"]
            self._room -= sum(map(len, told.values()))

    def written(self, finish: str | None) -> str:
        """The one message that it is."""
        said = [{"type": "text", "content": text}] if (text := "".join(self._said)) else []
        message = {"role": "assistant", "parts": [*said, *self._calls.values()]}
        return orjson.dumps([self._pen.value({**message, "finish_reason": finish or ""})]).decode()
