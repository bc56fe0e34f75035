"""Change what an upstream is asked and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from headrace import (
    OPENAI,
    PASSTHROUGH,
    REMOVED,
    Call,
    HeadraceError,
    Next,
    Outgoing,
    Reply,
    Translation,
    check_headers,
    translation,
)


@dataclass(kw_only=True)
class Transform:
    """Change calls and replies: members of the body, headers, and the dialect they are in.

    Members are changed first, in OpenAI's form, then the call is put into the upstream's dialect;
    streams and plain answers alike. Bodies that are passed through stay as they are.
    """

    to: str | None = None
    """The dialect that the upstream speaks; a forwarder that needs one brings it along."""
    set: dict[str, Any] = field(default_factory=dict)
    """Top-level members of the body, and what each is set to, whatever the client said."""
    default: dict[str, Any] = field(default_factory=dict)
    """Top-level members of the body, and what each is set to where the client gave none."""
    remove: list[str] = field(default_factory=list)
    """Top-level members of the body that are taken away."""
    headers: dict[str, str] = field(default_factory=dict)
    """Headers that the upstream gets, beside those that always go along."""
    reply_headers: dict[str, str] = field(default_factory=dict)
    """Headers of the reply, and what each is set to."""

    @property
    def inside_attempt(self) -> bool:
        """A change of dialect stands inside each attempt, where the call has its target's model."""
        return self.to is not None

    def __post_init__(self) -> None:
        check_headers(self.headers)
        check_headers(self.reply_headers)
        self._translation: Translation | None = None
        if self.to and self.to != OPENAI.name:
            try:
                self._translation = translation(self.to)
            except (HeadraceError, ImportError) as error:
                raise ValueError(f"to: {error}") from error

    async def __call__(self, call: Call, call_next: Next) -> Reply:
        """Ask with the changed call, then change the reply."""
        changed = self._changed(call)
        if self._translation and not self._as_it_is(call):
            asked = self._translation.request(changed)
            reply = self._translation.reply(changed, await call_next(asked))
        else:
            reply = await call_next(changed)
        reply.headers.update(self.reply_headers)
        return reply

    def _as_it_is(self, call: Call) -> bool:
        """Whether the upstream gets the call in the dialect it came in."""
        return call.operation == PASSTHROUGH or call.dialect.name == self.to

    def _changed(self, call: Call) -> Call:
        if self.headers:
            told = call.told(Outgoing)
            call = call.telling(Outgoing({**(told.headers if told else {}), **self.headers}))
        if call.operation == PASSTHROUGH or not call.body:
            return call
        edits = self._edits(call) if self.set or self.default or self.remove else {}
        return call.edit(**edits) if edits else call

    def _edits(self, call: Call) -> dict[str, Any]:
        members = call.members
        return {
            **{name: REMOVED for name in self.remove if name in members},
            **{
                name: value
                for name, value in self.default.items()
                if members.get(name) is None or name in self.remove
            },
            **self.set,
        }
