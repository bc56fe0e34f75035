"""What calls have in common that are to stay at one target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256
from itertools import islice
from typing import Any, Literal, TypeAlias

from headrace import Call

Sticky: TypeAlias = Literal["caller", "conversation"] | Mapping[Literal["header"], str] | None

_MESSAGES = 16
_PARTS = 16
_CHARACTERS = 4096
"""How much of a text counts, at its beginning and at its end."""


def key_of(call: Call, sticky: Sticky) -> bytes | None:
    """What the call has in common with others, as 32 bytes; None where it has nothing."""
    match sticky:
        case "caller":
            said = _caller(call)
        case "conversation":
            said = _beginning(call)
        case {"header": name}:
            said = [call.headers.get(name) or ""]
        case _:
            said = []
    return sha256("\0".join(said).encode(errors="surrogatepass")).digest() if any(said) else None


def _caller(call: Call) -> list[str]:
    """Who asks; the address, where that is not known."""
    if call.caller is None:
        return [call.record.client or ""]
    return [call.caller.name, call.caller.id or ""]


def _beginning(call: Call) -> list[str]:
    """The model and the texts of the first messages, up to what the user said first.

    A conversation that grows keeps them. A long text counts by its length, beginning and end, so
    that a large call costs no more than a small one.
    """
    messages = call.members.get("messages") if call.operation == "chat" else None
    if not isinstance(messages, list):
        return []
    said: list[str] = []
    for message in messages[:_MESSAGES]:
        if isinstance(message, dict):
            role = str(message.get("role"))
            said += [role, *_texts(message.get("content"))]
            if role == "user":
                break
    return [str(call.members.get("model")), *said] if said else []


def _texts(content: Any) -> Iterator[str]:
    parts = content if isinstance(content, list) else [{"text": content}]
    for part in islice(parts, _PARTS):
        text = part.get("text") if isinstance(part, dict) else None
        if isinstance(text, str):
            yield f"{len(text)} {text[:_CHARACTERS]} {text[-_CHARACTERS:]}"
