"""The whole answer that the chunks of a stream add up to, and the chunks that one comes apart into.

Both are OpenAI's forms of chat completions and completions, the form in between. What is not known
here stays: members of a delta grow as its text does, all others are as they were said last. JSON is
read with all digits of its integers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_ONCE = frozenset({"id", "type", "index", "role", "name", "format", "signature", "expires_at"})
"""Texts inside a delta that are said whole: they take the place of what was said before."""
_LAST = ("content", "refusal", "tool_calls", "function_call")
"""What a message says after everything else, such as its reasoning."""
_SHORTEST, _MOST = 24, 500
"""A text is cut into pieces of some words each; of a long one they are longer, and not more."""


class _Growing(list[str]):
    """A text that is still growing: joined once, when all of it is there."""


def assembled(chunks: Iterable[bytes]) -> bytes:
    """The whole answer, as JSON, that the chunks of a complete stream add up to."""
    whole: dict[str, Any] = {}
    choices: dict[Any, dict[str, Any]] = {}
    for text in chunks:
        chunk = json.loads(text)
        for part in chunk.pop("choices", None) or ():
            _add(choices.setdefault(part.get("index", 0), {}), part)
        for name, value in chunk.items():
            if value is not None or name not in whole:
                whole[name] = value
    whole["object"] = str(whole.get("object")).removesuffix(".chunk")
    usage = {"usage": whole.pop("usage")} if "usage" in whole else {}
    whole["choices"] = [_whole_choice(choice) for _, choice in sorted(choices.items())]
    return _json({**whole, **usage})


def taken_apart(answer: bytes) -> list[bytes]:
    """The chunks, as JSON, that a stream with this answer could have had; the usage comes last.

    What marks the end of a stream is not among them.
    """
    told = json.loads(answer)
    choices, usage = told.pop("choices"), told.pop("usage", None)
    if any("message" in choice for choice in choices):
        told["object"] = f"{told.get('object')}.chunk"
    chunks = [{**told, "choices": [piece]} for choice in choices for piece in _pieces(choice)]
    if usage is not None:
        chunks.append({**told, "choices": [], "usage": usage})
    return [_json(chunk) for chunk in chunks]


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


# Putting together


def _add(choice: dict[str, Any], part: Mapping[str, Any]) -> None:
    """One chunk's part of a choice, behind those before it."""
    for name, value in part.items():
        match name:
            case "delta":
                choice["message"] = _joined("message", choice.get("message"), value)
            case "text" | "logprobs":
                choice[name] = _joined(name, choice.get(name), value)
            case _ if value is not None or name not in choice:
                choice[name] = value


def _joined(name: str, before: Any, more: Any) -> Any:
    """What was said under a name, and what was said more."""
    if name in _ONCE:
        return more or (more if before is None else before)
    match before, more:
        case _, None:
            return before
        case _Growing(), str():
            before.append(more)
        case dict(), dict():
            for inner, value in more.items():
                before[inner] = _joined(inner, before.get(inner), value)
        case list(), list():
            _extend(before, more)
        case _, str():
            return _Growing([more])
        case _, dict():
            return _joined(name, {}, more)
        case _, list():
            return _joined(name, [], more)
        case _:
            return more
    return before


def _extend(before: list[Any], more: Iterable[Any]) -> None:
    """More of a list: an entry with an index goes on where one of that index is, others follow."""
    for entry in more:
        index = _index(entry)
        if index is None:
            before.append(entry)
            continue
        same = (one for one in reversed(before) if _index(one) == index)
        known = next(same, None)
        if known is None:
            before.append(_joined("", {}, entry))
        else:
            _joined("", known, entry)


def _index(entry: Any) -> int | None:
    index = entry.get("index") if isinstance(entry, dict) else None
    return index if isinstance(index, int) else None


def _whole_choice(choice: dict[str, Any]) -> dict[str, Any]:
    choice = _finished(choice)
    if "text" in choice:
        return choice
    message = {"role": "assistant", "content": None, **choice.pop("message", {})}
    for call in message.get("tool_calls") or ():
        if isinstance(call, dict):
            call.pop("index", None)
    return {"index": choice.pop("index", 0), "message": message, **choice}


def _finished(value: Any) -> Any:
    match value:
        case _Growing():
            return "".join(value)
        case dict():
            return {name: _finished(inner) for name, inner in value.items()}
        case list():
            return [_finished(inner) for inner in value]
    return value


# Taking apart


def _pieces(choice: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A choice as the parts of it that chunks carry, one after the other."""
    said = {"logprobs": choice.pop("logprobs")} if "logprobs" in choice else {}
    index, finish = choice.pop("index", 0), choice.pop("finish_reason", None)
    message, whole = choice.pop("message", None), bool(said.get("logprobs"))
    if message is None:
        for piece in _cut(choice.pop("text", ""), whole=whole):
            yield {"index": index, "text": piece, **said, "finish_reason": None}
            said = {}
        yield {"index": index, "text": "", **said, "finish_reason": finish, **choice}
        return
    for delta in _deltas(message, whole=whole):
        here = said if "content" in delta or "refusal" in delta else {}
        said = {} if here else said
        yield {"index": index, "delta": delta, **here, "finish_reason": None}
    yield {"index": index, "delta": {}, **said, "finish_reason": finish, **choice}


def _deltas(message: dict[str, Any], *, whole: bool) -> Iterator[dict[str, Any]]:
    unsaid = [name for name, value in message.items() if value in (None, [])]
    yield {"role": message.pop("role", "assistant"), **{name: message.pop(name) for name in unsaid}}
    for name in sorted(message, key=lambda name: _LAST.index(name) + 1 if name in _LAST else 0):
        match message[name]:
            case str(text) if name not in _ONCE:
                for piece in _cut(text, whole=whole and name in _LAST):
                    yield {name: piece}
            case list(calls) if name == "tool_calls":
                for number, call in enumerate(calls):
                    yield {name: [{"index": number, **call}]}
            case value:
                yield {name: value}


def _cut(text: str, *, whole: bool) -> list[str]:
    if whole or not text:
        return [text]
    size = _SHORTEST
    while size * _MOST < len(text):
        size *= 2
    return re.findall(rf"(?s).{{1,{size}}}(?<=\s)(?=\S)|.{{1,{size}}}", text)
