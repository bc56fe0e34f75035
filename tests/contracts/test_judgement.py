"""The contracts tell what breaks a rule, in words that help."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from headrace import Call, CallError, Event, Forwarder, Next, Plugin, Reply, Secret, UpstreamError
from headrace.testing import Clock, ForwarderContract, Loopback, PluginContract, Upstream
from headrace.testing.contracts import kinds
from headrace.transport import Request
from headrace_plugins.forwarders.openai import OpenAI

Broken = (AssertionError, pytest.fail.Exception)


async def collecting(call: Call, call_next: Next) -> Reply:
    async def collected(events: AsyncIterator[Event]) -> AsyncIterator[Event]:
        for event in [event async for event in events]:
            yield event

    return (await call_next(call)).through(collected)


async def rewriting(call: Call, call_next: Next) -> Reply:
    return await call_next(call.replace(body=json.dumps(call.json).encode()))


async def marking(call: Call, call_next: Next) -> Reply:
    call.members["seen"] = True
    return await call_next(call)


async def wrapping(call: Call, call_next: Next) -> Reply:
    reply = await call_next(call)
    return Reply(reply.events, framing=reply.framing)


async def hushing(call: Call, call_next: Next) -> Reply:
    async def hushed(events: AsyncIterator[Event]) -> AsyncIterator[Event]:
        try:
            async for event in events:
                yield event
        except CallError:
            return

    return (await call_next(call)).through(hushed)


async def comforting(call: Call, call_next: Next) -> Reply:
    try:
        return await call_next(call)
    except CallError:
        return Reply.plain({"choices": [{"message": {"content": "all is well"}}]})


async def blaming(call: Call, call_next: Next) -> Reply:
    try:
        return await call_next(call)
    except CallError as error:
        raise CallError("it is the upstream's fault") from error


async def stubborn(call: Call, call_next: Next) -> Reply:
    asking = asyncio.ensure_future(call_next(call))
    try:
        return await asyncio.shield(asking)
    except asyncio.CancelledError:
        asyncio.get_running_loop().call_later(1, asking.cancel)
        raise


async def aloof(call: Call, call_next: Next) -> Reply:
    return Reply.plain({"choices": []})


def failing() -> CallError:
    return UpstreamError.refused(503, b"busy")


@dataclass
class Once:
    """Opens once."""

    limit: int = 1

    async def __aenter__(self) -> Once:
        self.limit -= 1
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing is open."""

    async def __call__(self, call: Call, call_next: Next) -> Reply:
        reply = await call_next(call)
        return reply if self.limit == 0 else reply.through(nothing)


async def nothing(events: AsyncIterator[Event]) -> AsyncIterator[Event]:
    return
    yield


@dataclass
class Dumb:
    async def __call__(self, call: Call, call_next: Next) -> Reply:
        return await call_next(call)


LEAVES = "a_client_that_leaves_while_it_waits_cancels_the_upstream"
BREAKS = "a_failure_in_mid_stream_reaches_the_client_and_closes_the_upstream"


@pytest.mark.parametrize(
    ("plugin", "rule", "kind", "said"),
    [
        (collecting, "events_pass_one_by_one", "chat stream", "the first event waits for others"),
        (rewriting, "unknown_members_stay_byte_for_byte", "chat", r"`call.edit\(member=value\)`"),
        (marking, "the_call_it_was_given_stays_as_it_was", "chat", "changed `call.json`"),
        (wrapping, "it_lets_every_kind_of_call_pass", "chat stream", "nothing was said"),
        (aloof, "it_lets_every_kind_of_call_pass", "chat", "no call reached the upstream"),
        (hushing, BREAKS, "chat stream", "the client is not told"),
        (stubborn, LEAVES, "chat", "an upstream works on for nobody"),
        (comforting, "failures_pass_unharmed", failing, "the client is not told; instead"),
        (blaming, "failures_pass_unharmed", failing, "something else than what happened"),
    ],
)
async def test_a_plugin_that_breaks_a_rule_is_found_out(
    plugin: Plugin, rule: str, kind: object, said: str, clock: Clock
) -> None:
    clock.jumps = True
    upstream = Upstream()
    upstream.script(kinds.answers)

    with pytest.raises(Broken, match=said):
        await getattr(PluginContract(), f"test_{rule}")(plugin, upstream, kind)


async def test_a_plugin_that_opens_only_once_is_found_out() -> None:
    class Contract(PluginContract):
        plugin = Once()

    with pytest.raises(Broken, match="closed and opened again"):
        await Contract().test_it_opens_and_closes_twice_and_works_each_time(Upstream())


@pytest.mark.parametrize(
    ("mute", "said"), [(Dumb(), "Dumb needs a docstring"), (Once(), "'limit' of Once needs a")]
)
def test_a_plugin_without_a_sentence_is_found_out(mute: Plugin, said: str) -> None:
    class Contract(PluginContract):
        plugin = mute

    with pytest.raises(Broken, match=said):
        Contract().test_it_has_a_sentence_for_itself_and_each_option()


# Forwarders


@dataclass(kw_only=True)
class Careless(OpenAI):
    """Sends everything, follows everything, tells everything."""

    async def __call__(self, call: Call) -> Reply:
        assert isinstance(self.api_key, Secret)
        key = self.api_key.reveal()
        url = f"{self.base_url}/chat/completions?key={key}"
        lines = tuple(call.headers.items())
        while True:
            request = Request(method="POST", url=url, headers=lines, body=call.body)
            response = await self.transport.send(request, connect=1, idle=600)
            body = b"".join([chunk async for chunk in response.chunks()])
            if "location" not in response.headers:
                break
            url = response.headers["location"]
        return Reply(one(Event(body, body)), headers=dict(response.headers.items()))


async def one(event: Event) -> AsyncIterator[Event]:
    yield event


class CarelessContract(ForwarderContract):
    def make(self, url: str) -> Forwarder:
        return Careless(base_url=url, api_key=Secret(self.key))


@pytest.mark.parametrize(
    ("rule", "arguments", "said"),
    [
        ("only_listed_headers_reach_the_upstream", {"operation": "chat"}, "between the client"),
        ("only_listed_headers_come_back", {}, "own business"),
        ("a_redirect_is_not_followed", {"code": 302}, "redirect was taken for an answer"),
        ("its_key_goes_to_its_server_in_a_header_and_is_shown_nowhere", {}, "key is not sent"),
    ],
)
async def test_a_forwarder_that_breaks_a_rule_is_found_out(
    rule: str, arguments: dict[str, Any], said: str
) -> None:
    contract = CarelessContract()
    test = getattr(contract, f"test_{rule}")
    async with Loopback() as server, Loopback() as elsewhere, contract.opened(server.url) as made:
        elsewhere.script(contract.answers("hello"))
        if "elsewhere" in inspect.signature(test).parameters:
            arguments = {**arguments, "elsewhere": elsewhere}

        with pytest.raises(Broken, match=said):
            await test(server=server, ask=partial(contract.asked, made), **arguments)


async def test_a_forwarder_that_waits_for_the_end_is_found_out(clock: Clock) -> None:
    contract = CarelessContract()
    async with Loopback() as server, contract.opened(server.url) as made:
        ask = partial(contract.asked, made)
        test = asyncio.ensure_future(
            contract.test_the_reply_is_there_with_the_first_event(server, ask)
        )
        await server.asked()
        clock.advance(10)

        with pytest.raises(Broken, match="the reply waits for more events"):
            await test
