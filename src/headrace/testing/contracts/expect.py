"""What the contracts have in common: waiting, reading, and saying what was expected instead."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import pytest

from headrace.call import PASSTHROUGH, Call
from headrace.config.parts import options_of
from headrace.errors import CallError
from headrace.reply import Event, Reply
from headrace.testing.clock import Clock
from headrace.testing.script import Upstream

Result = TypeVar("Result")


def sentences(part: type[Any]) -> None:
    """A part has a sentence for itself and for each of its options."""
    own = part.__doc__ or ""
    if own.startswith(f"{part.__name__}("):  # what a dataclass has for want of a docstring
        own = ""
    assert _is_sentence(own), (
        f"{part.__name__} needs a docstring whose first line is a sentence, full stop included: "
        "'headrace plugins' and the editor's schema print it"
    )
    for option in options_of(part).values():
        assert _is_sentence(option.doc), (
            f"the option {option.name!r} of {part.__name__} needs a sentence, full stop included: "
            "write it as a string on the line below the field"
        )


def _is_sentence(text: str) -> bool:
    first = text.strip().partition("\n\n")[0]
    return len(first) > 1 and first.endswith((".", ":", "!", "?"))


async def soon(awaitable: Awaitable[Result], otherwise: str) -> Result:
    """What comes of `awaitable`; the test fails with `otherwise` where nothing does."""
    patience = 300 if Clock.running().jumps else 2  # a clock that jumps waits in no time
    try:
        async with asyncio.timeout(patience):
            return await awaitable
    except TimeoutError:
        pytest.fail(otherwise)


async def failure(awaitable: Awaitable[object], otherwise: str) -> CallError:
    """The `CallError` that comes of `awaitable`; the test fails with `otherwise` at any other."""
    try:
        result = await soon(awaitable, f"{otherwise}; nothing came at all")
    except CallError as error:
        return error
    pytest.fail(f"{otherwise}; instead there was {result!r}")


async def read(reply: Reply) -> list[Event]:
    """All events of a reply, read as the edge reads it: to the end or a failure, then closed."""
    try:
        events = [event async for event in reply.events]
    except BaseException as error:
        await reply.aclose(error)
        raise
    await reply.aclose()
    return events


async def opened(stack: AsyncExitStack, part: object) -> None:
    """Open a part as a gateway does, where there is something to open."""
    if hasattr(part, "__aenter__"):
        await stack.enter_async_context(part)  # type: ignore[arg-type]


def closed_once(upstream: Upstream) -> None:
    """Every reply that the upstream gave is closed, and none of them twice."""
    assert upstream.open <= 0, f"the upstream's replies are not closed: {upstream.open} are open"
    assert upstream.open == 0, "a reply of the upstream was closed more than once"


def looked_at(call: Call) -> dict[str, Any]:
    """What a plugin could have changed in a call that it was given."""
    return {
        "body": call.body,
        "headers": list(call.headers.raw),
        "json": None if call.operation == PASSTHROUGH else copy.deepcopy(call.json),
        "facts": copy.deepcopy(call.facts),
    }


def told(error: CallError) -> list[object]:
    """What a client is told of an error."""
    names = ("status", "type", "code", "param", "message")
    return [type(error), *(getattr(error, name) for name in names)]
