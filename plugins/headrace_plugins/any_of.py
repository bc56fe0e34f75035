"""Let in whoever one of several plugins lets in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

from headrace import (
    Call,
    CallError,
    Finding,
    Next,
    Plugin,
    Plugins,
    Reply,
    Unauthorized,
    compose,
)

_MISSING = "missing_api_key"


class _Refused(NamedTuple):
    """What one of the plugins has against a call, and what it says of that to the log."""

    error: CallError
    said: str


@dataclass(kw_only=True)
class AnyOf:
    """Let in whoever one of several plugins lets in.

    Each of them must be one that authenticates. All are asked for every call, also after one has
    let it in, so that the time it takes tells nothing of who it was; the first of them counts.
    """

    plugins: Plugins
    """Those that are asked, two or more; where several let a call in, the first one counts."""

    authenticates: ClassVar = True
    shorthand: ClassVar = "plugins"

    def __post_init__(self) -> None:
        if len(self.plugins) < 2:
            raise ValueError("plugins must be two or more; one alone needs no any_of around it")
        for plugin in self.plugins:
            if not getattr(plugin, "authenticates", False):
                name = type(plugin).__name__
                raise ValueError(f"{name} does not find out who asks; put it outside of any_of")

    async def examine(self) -> AsyncIterator[Finding]:
        """What those find that try what they lean on."""
        for plugin in self.plugins:
            if examine := getattr(plugin, "examine", None):
                async for finding in examine():
                    yield finding

    async def __call__(self, call: Call, call_next: Next) -> Reply:
        """Ask everybody, then send on the call that the first of them has let in."""
        answers = [await _asked(plugin, call) for plugin in self.plugins]
        for admitted in answers:
            if isinstance(admitted, Call):
                admitted = admitted.replace(record=call.record)
                return await call_next(admitted.replace(caller=admitted.caller))
        refused = [answer for answer in answers if isinstance(answer, _Refused)]
        call.record.said = "; ".join(dict.fromkeys(each.said for each in refused))
        raise _told([each.error for each in refused])


async def _asked(plugin: Plugin, call: Call) -> Call | _Refused:
    """The call as a plugin lets it in. What it writes into the record, it writes into a copy."""
    let_in: list[Call] = []

    async def note(call: Call) -> Reply:
        let_in.append(call)
        return Reply.plain({})

    record = replace(call.record, said=None)
    try:
        reply = await compose((plugin,), note)(call.replace(record=record))
        await reply.aclose()
    except CallError as error:
        return _Refused(error, record.said or str(error))
    if not let_in:
        name = type(plugin).__name__
        return _Refused(_nobody(), f"{name} answered by itself")
    return let_in[0]


def _told(errors: Sequence[CallError]) -> CallError:
    """What the client is told, where each has its own words for a 401 those of neither."""
    for error in errors:
        if not isinstance(error, Unauthorized):
            return error
    missing = all(error.code == _MISSING for error in errors)
    alike = len({str(error) for error in errors}) == 1
    return errors[0] if missing or alike else _nobody()


def _nobody() -> Unauthorized:
    return Unauthorized(
        "no key or token that this request shows is good here", error="invalid_token"
    )
