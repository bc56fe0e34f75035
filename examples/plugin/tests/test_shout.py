"""`shout`: what is said is said in capitals, and nothing else is changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from headrace_shout import Shout

from headrace import Caller
from headrace.testing import BACKEND, PluginContract, Upstream, ask, call, raw, says, sends, text


class TestContract(PluginContract):
    """What every plugin must keep: three dozen tests in two lines."""

    plugin = Shout()


@pytest.fixture
def anyio_backend() -> tuple[str, Mapping[str, Any]]:
    return BACKEND


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_is_in_capitals(stream: bool) -> None:
    upstream = Upstream()
    upstream.script(says("Grüß ", "dich"))

    reply = await ask(Shout(), upstream=upstream, call=call(stream=stream))

    assert await text(reply) == "GRÜSS DICH"


async def test_what_is_not_said_stays_as_it_came() -> None:
    tool_call = b'{"choices": [{"delta": {"tool_calls": [{"function": {"name": "f"}}]}}]}'
    upstream = Upstream()
    upstream.script(sends(tool_call, b"[DONE]"))

    reply = await ask(Shout(), upstream=upstream, call=call(stream=True))

    assert await raw(reply) == b"data: " + tool_call + b"\n\ndata: [DONE]\n\n"


@pytest.mark.parametrize(("name", "heard"), [("ann", "HELLO"), ("bob", "hello"), (None, "hello")])
async def test_it_may_be_for_some_callers_only(name: str | None, heard: str) -> None:
    asked = call().replace(caller=Caller(name) if name else None)

    reply = await ask(Shout(callers=["ann"]), upstream=Upstream(), call=asked)

    assert await text(reply) == heard
