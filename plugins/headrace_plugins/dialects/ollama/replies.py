"""What an Ollama server answers, in OpenAI's form: lines as they come, and whole answers.

A chunk is as OpenAI's "The chat completion chunk object" has it; thinking is `reasoning` beside
`content`, where Ollama's own layer puts it.
"""

from __future__ import annotations

import base64
import json
import struct
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, Protocol

from headrace import Call, Event, UpstreamError, sse

Line = Mapping[str, Any]

_MOST_TOKENS = 2**53


async def chunks(call: Call, events: AsyncIterator[Event]) -> AsyncIterator[Event]:
    """The lines of an answer as chunks, each as it comes."""
    saying: _Saying = _Chat() if call.operation == "chat" else _Text()
    head: dict[str, Any] = {}
    async for event in events:
        line = _read(event)
        head = head or _head(call, line)
        for choice in saying.choices(line):
            yield Event.saying({**head, "choices": [choice]}, "sse")
        if line.get("done") is True:
            break
    else:
        raise _truncated()
    if _asks_usage(call):
        yield Event.saying({**head, "choices": [], "usage": _usage(line)}, "sse")
    yield Event(sse(b"[DONE]"), b"[DONE]")
    async for _ in events:
        pass  # only an answer read to its end leaves its connection to the next one


async def whole(call: Call, events: AsyncIterator[Event]) -> AsyncIterator[Event]:
    """An answer in one piece."""
    async for event in events:
        line = _read(event)
        if call.operation == "embedding":
            yield Event.saying(_embeddings(call, line), "json")
        elif line.get("done") is True:
            choice = _chat_choice(line) if call.operation == "chat" else _text_choice(line)
            answer = {**_head(call, line), "choices": [choice], "usage": _usage(line)}
            yield Event.saying(answer, "json")
        else:
            raise _truncated()


def _read(event: Event) -> Line:
    """What a line says. Raises `UpstreamError` where it tells a failure, or nothing."""
    value = event.json
    data = event.data or b""
    if not isinstance(value, dict):
        raise _invalid("something that is not a JSON object")
    if value.get("error"):
        raise UpstreamError.refused(502, data)
    if b'"tool_calls"' not in data:
        return value
    try:
        # Arguments keep all their digits, where orjson makes floats of integers beyond 64 bits.
        exact: Line = json.loads(data)
    except (ValueError, RecursionError):
        raise _invalid("a tool call beyond all bounds") from None
    return exact


# A stream's lines


class _Saying(Protocol):
    """Turns the lines of one answer into choices, knowing what the lines before have told."""

    def choices(self, line: Line) -> Iterator[dict[str, Any]]:
        """What a line says, and the finish if it is the last one; nothing for an empty line."""


class _Chat:
    def __init__(self) -> None:
        self._begun = False
        self._calls = _Calls()

    def choices(self, line: Line) -> Iterator[dict[str, Any]]:
        message = _message(line)
        thinking, text = _words(message, "thinking"), _words(message, "content")
        calls = self._calls.of(message)
        said: list[Line] = [{"reasoning": thinking}] if thinking else []
        if text or calls:
            said.append(_some(content=text, tool_calls=calls))
        logprobs = _logprobs(line)
        if logprobs and not said:
            said.append({})
        for number, delta in enumerate(said, 1):
            yield self._choice(delta, logprobs=logprobs if number == len(said) else None)
        if line.get("done") is True:
            yield self._choice({}, finish=_finish(line, called=self._calls.seen))

    def _choice(
        self, said: Line, *, logprobs: Line | None = None, finish: str | None = None
    ) -> dict[str, Any]:
        delta = said if self._begun else {"role": "assistant", **said}
        self._begun = True
        return {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}


class _Text:
    def __init__(self) -> None:
        self._length = 0

    def choices(self, line: Line) -> Iterator[dict[str, Any]]:
        choice = _text_choice(line, self._length)
        self._length += len(choice["text"])
        if choice["text"] or choice["logprobs"] or "reasoning" in choice:
            yield {**choice, "finish_reason": None}
        if line.get("done") is True:
            yield {"index": 0, "text": "", "logprobs": None, "finish_reason": _finish(line)}


class _Calls:
    """The tool calls of one answer, numbered as they come.

    Ollama may give all of them the same index, and old servers give none of them an id.
    """

    def __init__(self) -> None:
        self._ids: set[str] = set()

    @property
    def seen(self) -> bool:
        """Whether there was one."""
        return bool(self._ids)

    def of(self, message: Line) -> list[dict[str, Any]]:
        """The calls of one more message; each of them is whole."""
        return [self._call(call) for call in _objects(message, "tool_calls")]

    def _call(self, call: Line) -> dict[str, Any]:
        index = len(self._ids)
        given = call.get("id")
        if not isinstance(given, str) or not given or given in self._ids:
            given = f"call_{uuid.uuid4().hex}"
        self._ids.add(given)
        return {"index": index, "id": given, "type": "function", "function": _function(call)}


def _function(call: Line) -> dict[str, str]:
    """Name and arguments; these are an object there, and a text here."""
    match call:
        case {"function": {"name": str(name), **rest}}:
            arguments = rest.get("arguments") or {}
        case _:
            raise _invalid("a tool call that names no function")
    if not isinstance(arguments, str):
        try:
            arguments = json.dumps(arguments, ensure_ascii=False, separators=(",", ":"))
        except RecursionError:
            raise _invalid("a tool call beyond all bounds") from None
    return {"name": name, "arguments": arguments}


# Whole answers


def _chat_choice(line: Line) -> dict[str, Any]:
    message = _message(line)
    text = _words(message, "content")
    calls = [_without_index(call) for call in _Calls().of(message)]
    said = {
        "role": "assistant",
        "content": text or (None if calls else ""),
        **_some(reasoning=_words(message, "thinking"), tool_calls=calls),
    }
    finish = _finish(line, called=bool(calls))
    return {"index": 0, "message": said, "logprobs": _logprobs(line), "finish_reason": finish}


def _without_index(call: Line) -> dict[str, Any]:
    return {name: value for name, value in call.items() if name != "index"}


def _text_choice(line: Line, offset: int = 0) -> dict[str, Any]:
    return {
        "index": 0,
        "text": _words(line, "response"),
        **_some(reasoning=_words(line, "thinking")),
        "logprobs": _old_logprobs(line, offset),
        "finish_reason": _finish(line),
    }


def _embeddings(call: Call, answer: Line) -> dict[str, Any]:
    encode = _base64 if call.members.get("encoding_format") == "base64" else list
    try:
        data = [
            {"object": "embedding", "index": index, "embedding": encode(vector)}
            for index, vector in enumerate(answer.get("embeddings") or ())
        ]
    except (struct.error, TypeError, OverflowError):
        raise _invalid("embeddings that are not lists of numbers") from None
    tokens = _count(answer, "prompt_eval_count")
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": _model(call, answer), "usage": usage}


def _base64(vector: list[float]) -> str:
    """Little-endian 32-bit floats, as OpenAI's client unpacks them."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


# What both have


def _head(call: Call, line: Line) -> dict[str, Any]:
    """What an answer has once, and its chunks all alike."""
    kind, prefix = "text_completion", "cmpl"
    if call.operation == "chat":
        streamed = call.dialect.streams(call)
        kind, prefix = f"chat.completion{'.chunk' if streamed else ''}", "chatcmpl"
    return {
        "id": f"{prefix}-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": _model(call, line),
        "system_fingerprint": "fp_ollama",
    }


def _model(call: Call, line: Line) -> str:
    """The model that answered, by its own word."""
    return _words(line, "model") or call.dialect.asked(call)


def _finish(line: Line, *, called: bool = False) -> str:
    """`length` as it is, `tool_calls` after any call, else `stop`, the only one all clients know.

    Ollama says `stop` after tool calls too, and old servers say nothing.
    """
    if line.get("done_reason") == "length":
        return "length"
    return "tool_calls" if called else "stop"


def _usage(line: Line) -> dict[str, int]:
    """The last line's counts; Ollama leaves out what is zero."""
    asked, said = _count(line, "prompt_eval_count"), _count(line, "eval_count")
    return {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}


def _count(line: Line, name: str) -> int:
    count = line.get(name)
    return count if isinstance(count, int) and 0 <= count < _MOST_TOKENS else 0


def _asks_usage(call: Call) -> bool:
    options = call.members.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


def _logprobs(line: Line) -> dict[str, Any] | None:
    content = [
        {**_token(token), "top_logprobs": [_token(top) for top in _objects(token, "top_logprobs")]}
        for token in _objects(line, "logprobs")
    ]
    return {"content": content, "refusal": None} if content else None


def _old_logprobs(line: Line, offset: int) -> dict[str, Any] | None:
    """The same as `/v1/completions` has it; `offset` is how much text came before."""
    known = _logprobs(line)
    if known is None:
        return None
    tokens, offsets = known["content"], []
    for token in tokens:
        offsets.append(offset)
        offset += len(token["token"])
    return {
        "tokens": [token["token"] for token in tokens],
        "token_logprobs": [token["logprob"] for token in tokens],
        "top_logprobs": [
            {top["token"]: top["logprob"] for top in token["top_logprobs"]} for token in tokens
        ],
        "text_offset": offsets,
    }


def _token(token: Line) -> dict[str, Any]:
    logprob = token.get("logprob")
    if not isinstance(logprob, int | float):
        raise _invalid("a token without its logprob")
    return {"token": _words(token, "token"), "logprob": logprob, "bytes": token.get("bytes")}


def _message(line: Line) -> Line:
    message = line.get("message")
    if message is None and line.get("done") is True:
        return {}
    if not isinstance(message, dict):
        raise _invalid("a line without a message")
    return message


def _words(value: Line, name: str) -> str:
    words = value.get(name) or ""
    if not isinstance(words, str):
        raise _invalid(f"a '{name}' that is no text")
    return words


def _objects(value: Line, name: str) -> list[Line]:
    items = value.get(name) or []
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise _invalid(f"'{name}' that is no list of objects")
    return items


def _some(**members: Any) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value}


def _invalid(what: str) -> UpstreamError:
    return UpstreamError(f"the Ollama server sent {what}", code="upstream_invalid")


def _truncated() -> UpstreamError:
    return UpstreamError("the upstream's answer ended early", code="upstream_truncated")
