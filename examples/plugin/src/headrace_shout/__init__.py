"""A plugin for Headrace that writes answers in capitals."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from headrace import Call, Event, Next, Reply


@dataclass(kw_only=True)
class Shout:
    """Write answers in capitals, word by word as they pass.

    Texts of chats and completions are changed, whole or streamed. Tool calls, embeddings and what
    is passed through stay as they are.
    """

    callers: list[str] | None = None
    """Whose answers are in capitals; everybody's where it is not written."""

    async def __call__(self, call: Call, call_next: Next) -> Reply:
        """Ask, then change the reply on its way back."""
        reply = await call_next(call)
        if call.operation not in ("chat", "completion") or not self._is_for(call):
            return reply

        async def louder(events: AsyncIterator[Event]) -> AsyncIterator[Event]:
            async for event in events:
                # What says nothing goes on as it came, to the byte.
                said = call.dialect.text(event)
                yield Event.saying(_louder(event.json), reply.framing) if said else event

        return reply.through(louder)

    def _is_for(self, call: Call) -> bool:
        name = call.caller.name if call.caller else None
        return self.callers is None or name in self.callers


def _louder(value: Any) -> Any:
    """A copy of a JSON value with its texts in capitals: the event itself is not ours to change."""
    if isinstance(value, list):
        return [_louder(each) for each in value]
    if isinstance(value, dict):
        return {name: _raised(name, each) for name, each in value.items()}
    return value


def _raised(name: str, value: Any) -> Any:
    is_text = name in ("content", "text") and isinstance(value, str)
    return value.upper() if is_text else _louder(value)
