"""`transform`: members, headers and the dialect are changed on the way, and nothing else is."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from headrace import PASSTHROUGH, Call, Event, Outgoing, Reply
from headrace.testing import Upstream, ask, call, gateway, raw, says, text
from headrace_plugins.transform import Transform

pytestmark = pytest.mark.anyio

BODY = b'{"model": "m",  "temperature": 1e0, "user": "ann", "seed": null, "x": [1, 2]}'


async def asked(transform: Transform, **of_call: Any) -> Call:
    """The call that arrives at the upstream."""
    upstream = Upstream()
    reply = await ask(transform, upstream=upstream, call=call(**{"body": BODY, **of_call}))
    await reply.aclose()
    return upstream.calls[0]


async def test_without_options_everything_stays_byte_for_byte() -> None:
    assert (await asked(Transform())).body == BODY


async def test_members_are_set_where_they_stand_and_all_others_stay() -> None:
    changed = await asked(Transform(set={"temperature": 0, "stop": ["END"]}))

    assert changed.body == (
        b'{"model": "m",  "temperature": 0, "user": "ann", "seed": null, "x": [1, 2]'
        b',"stop":["END"]}'
    )


async def test_a_default_is_for_what_the_client_did_not_say() -> None:
    changed = await asked(Transform(default={"temperature": 0, "seed": 7, "top_p": 0.5}))

    said = json.loads(changed.body)
    assert (said["temperature"], said["seed"], said["top_p"]) == (1.0, 7, 0.5)


async def test_a_member_that_is_removed_gets_its_default() -> None:
    changed = await asked(Transform(remove=["temperature"], default={"temperature": 0}))

    assert json.loads(changed.body)["temperature"] == 0


async def test_members_are_removed_and_missing_ones_do_not_matter() -> None:
    changed = await asked(Transform(remove=["user", "seed", "metadata"]))

    assert changed.body == b'{"model": "m",  "temperature": 1e0, "x": [1, 2]}'


async def test_the_call_that_was_given_stays_as_it_was() -> None:
    given = call(body=BODY, headers={"x-team": "red"})

    reply = await ask(
        Transform(set={"user": "bob"}, headers={"x-team": "blue"}), upstream=Upstream(), call=given
    )

    await reply.aclose()
    assert given.body == BODY
    assert given.headers["x-team"] == "red"


async def test_headers_are_told_to_the_forwarder_below() -> None:
    changed = await asked(Transform(headers={"X-Team": "red"}), headers={"accept": "*/*"})

    assert changed.told(Outgoing) == Outgoing({"X-Team": "red"})
    assert dict(changed.headers) == {"accept": "*/*"}


@pytest.mark.parametrize("stream", [True, False])
async def test_headers_are_set_on_the_reply_streamed_or_not(stream: bool) -> None:
    reply = await ask(
        Transform(reply_headers={"x-region": "eu"}), upstream=Upstream(), call=call(stream=stream)
    )

    assert reply.headers["x-region"] == "eu"
    assert await text(reply) == "hello"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_call_is_put_into_the_upstreams_dialect_and_its_reply_back(stream: bool) -> None:
    line = {"model": "m", "message": {"role": "assistant", "content": "hello"}, "done": True}
    calls: list[Call] = []

    async def ollama(call: Call) -> Reply:
        async def events() -> AsyncIterator[Event]:
            yield Event.saying(line, "ndjson")

        calls.append(call)
        return Reply(events(), framing="ndjson" if stream else "json")

    transform = Transform(to="ollama", set={"keep_alive": "10m"})
    reply = await ask(upstream=ollama, call=call(stream=stream, user="ann"), brought=(transform,))

    assert await text(reply) == "hello"
    assert reply.framing == ("sse" if stream else "json")
    assert reply.headers["x-headrace-dropped"] == "user"
    assert calls[0].path == "/api/chat"
    assert json.loads(calls[0].body)["keep_alive"] == "10m"


async def test_a_client_that_speaks_the_upstreams_dialect_gets_its_bytes() -> None:
    upstream = Upstream()
    upstream.script(says("hel", "lo"))
    plain = await raw(await ask(upstream=upstream, call=call(stream=True)))

    reply = await ask(
        upstream=upstream, call=call(stream=True, body=None), brought=(Transform(to="openai"),)
    )

    assert await raw(reply) == plain
    assert upstream.calls[0].body == upstream.calls[1].body


async def test_what_is_passed_through_is_not_touched() -> None:
    async def upstream(call: Call) -> Reply:
        async def events() -> AsyncIterator[Event]:
            yield Event(call.body)

        return Reply(events(), framing="raw")

    transform = Transform(to="ollama", set={"a": 1}, headers={"x-team": "red"})
    reply = await ask(
        upstream=upstream, call=call(PASSTHROUGH, body=b"not json"), brought=(transform,)
    )

    assert await raw(reply) == b"not json"


async def test_a_request_without_a_body_has_no_members_to_set() -> None:
    running = gateway(
        """
        server: {chain: [transform: {set: {temperature: 0}, default: {seed: 1}, remove: [user]}]}
        upstreams: {a: mock}
        routes: {"*": a}
        """
    )

    async with running.lifespan(), running.client() as http:
        assert (await http.get("/models")).status_code == 200


def test_a_dialect_that_nobody_knows_is_told_when_the_plugin_is_made() -> None:
    with pytest.raises(ValueError, match="to: no dialect is called 'olama'"):
        Transform(to="olama")
