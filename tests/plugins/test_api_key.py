"""`api_key`: who shows a listed key is let in under its name, anyone else is not."""

from __future__ import annotations

import pytest

from headrace import Call, Next, Reply, Unauthorized, sha256
from headrace.testing import Client, Upstream, ask, call, gateway, text
from headrace_plugins.api_key import ApiKey

KEYS = {sha256("sk-ann"): "ann", sha256("sk-bob"): "bob"}
WRONG = "this key is not known here"


async def caller_of(headers: dict[str, str]) -> str | None:
    """The caller that the rest of the chain sees."""
    seen: list[Call] = []

    async def noting(call: Call, call_next: Next) -> Reply:
        seen.append(call)
        return await call_next(call)

    asked = call(headers=headers)
    await text(await ask(ApiKey(keys=KEYS), noting, upstream=Upstream(), call=asked))

    [caller] = [call.caller for call in seen]
    assert asked.record.caller == caller
    return caller.name if caller else None


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer sk-bob"},
        {"authorization": "bearer   sk-bob "},
        {"x-api-key": "sk-bob"},
        {"api-key": "sk-bob"},
        {"authorization": "Bearer sk-bob", "x-api-key": "sk-bob"},
    ],
)
async def test_a_listed_key_is_let_in_under_its_name(headers: dict[str, str]) -> None:
    assert await caller_of(headers) == "bob"


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({}, "this gateway wants an API key"),
        ({"authorization": "Bearer "}, "this gateway wants an API key"),
        ({"authorization": "Basic c2stYW5uOg=="}, "not of the Bearer scheme"),
        ({"authorization": "sk-ann"}, "not of the Bearer scheme"),
        ({"authorization": "Bearer sk-ann", "x-api-key": "sk-bob"}, "more than one key"),
        ({"authorization": "Bearer sk-eve"}, WRONG),
        ({"authorization": "Bearer sk-an"}, WRONG),
        ({"authorization": "Bearer sk-ann, Bearer sk-bob"}, WRONG),
        ({"authorization": "Bearer SK-ANN"}, WRONG),
        ({"authorization": "Bearer None"}, WRONG),
        ({"authorization": "Bearer ' OR 1=1 --"}, WRONG),
        ({"authorization": "Bearer sk-\xff\x00"}, WRONG),
        ({"x-api-key": sha256("sk-ann")}, WRONG),
    ],
)
async def test_anyone_else_is_refused_and_nobody_is_asked(
    headers: dict[str, str], said: str
) -> None:
    upstream = Upstream()

    with pytest.raises(Unauthorized, match=said) as caught:
        await ask(ApiKey(keys=KEYS), upstream=upstream, call=call(headers=headers))

    assert caught.value.status == 401
    assert upstream.asked == []


async def test_a_key_in_the_address_counts_for_nothing() -> None:
    asked = call().replace(query="key=sk-ann&api_key=sk-ann")

    with pytest.raises(Unauthorized):
        await ask(ApiKey(keys=KEYS), upstream=Upstream(), call=asked)


async def test_a_gateway_with_it_needs_no_other_door() -> None:
    upstream = Upstream()
    guarded = gateway(
        f"""
        server: {{chain: [api_key: {{keys: {{{sha256("sk-ann")}: ann}}}}]}}
        upstreams: {{a: mock}}
        routes: {{"*": a}}
        """,
        upstream=upstream,
        open=False,
    )
    client = Client(guarded)

    async with guarded.lifespan():
        refused = await client.chat()
        let_in = await Client(guarded, headers={"authorization": "Bearer sk-ann"}).chat()

        assert (refused.status, (await refused.json())["error"]["code"]) == (401, "missing_api_key")
        assert (let_in.status, (await let_in.json())["object"]) == (200, "chat.completion")
    assert len(upstream.calls) == 1
