"""The cache as OpenAI's own client meets it: over real sockets, plain and streamed."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any

import pytest
from openai import APIStatusError, AsyncOpenAI

from headrace.testing import Loopback
from headrace.testing.misbehaviour import (
    COMPLETION,
    EVENTS,
    STREAM,
    Act,
    Steps,
    answers,
    chunk,
    delta,
    event,
    streams,
)

from .serving import Note, Served, chat, eventually, measured, post, serving, wire

KEYS = {name: f"sk-{name}" for name in ("ann", "bob")}
CONFIG = f"""
    server:
      timeouts: {{connect: 1s, first_event: 5s, idle: 5s, total: 20s}}
      chain:
        - api_key:
            keys:
              {sha256(b"sk-ann").hexdigest()}: ann
              {sha256(b"sk-bob").hexdigest()}: bob
    upstreams:
      here: {{forwarder: {{openai: {{base_url: "${{UPSTREAM}}/v1"}}}}}}
    routes:
      small: {{chain: [cache: {{name: small, largest: 2KB}}], targets: here/m}}
      "*": {{chain: [cache], targets: here}}
    """
HI: Any = [{"role": "user", "content": "hi"}]
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
CALLS = [
    {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
    {"id": "c2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
]
TOOLS = [
    delta(role="assistant", content=None),
    delta(reasoning_content="two tools"),
    delta(tool_calls=[{"index": 0, **CALLS[0], "function": {"name": "f", "arguments": '{"x":'}}]),
    delta(tool_calls=[{"index": 1, **CALLS[1]}]),
    delta(tool_calls=[{"index": 0, "function": {"arguments": " 1}"}}]),
    delta("tool_calls"),
    {**delta(), "choices": [], "usage": USAGE},
]


@pytest.fixture(scope="module")
async def gateway(server: Loopback) -> AsyncIterator[Served]:
    async with serving(CONFIG, UPSTREAM=server.url) as served:
        yield served


@pytest.fixture
async def client(gateway: Served, upstream: Loopback) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(
        base_url=f"{gateway.url}/v1", api_key=KEYS["ann"], max_retries=0
    ) as client:
        yield client


async def whole(client: AsyncOpenAI, **members: Any) -> tuple[Any, str]:
    """A plain answer, and what the cache says of it."""
    raw = await client.chat.completions.with_raw_response.create(messages=HI, **members)
    return raw.parse().model_dump(), raw.headers["x-headrace-cache"]


async def streamed(client: AsyncOpenAI, **members: Any) -> tuple[list[Any], str]:
    """The chunks of a stream, and what the cache says of it."""
    raw = await client.chat.completions.with_raw_response.create(
        messages=HI, stream=True, **members
    )
    return [chunk.model_dump() async for chunk in raw.parse()], raw.headers["x-headrace-cache"]


async def test_a_plain_answer_is_the_same_again(client: AsyncOpenAI, upstream: Loopback) -> None:
    upstream.script(answers(COMPLETION))

    first, again = [await whole(client, model="plain") for _ in range(2)]

    assert (first[1], again[1]) == ("miss", "hit")
    assert again[0] == first[0]
    assert len(upstream.requests) == 1


async def test_a_stream_with_tool_calls_is_the_same_again(
    client: AsyncOpenAI, upstream: Loopback
) -> None:
    upstream.script(streams(*TOOLS))
    usage = {"include_usage": True}

    first, again = [await streamed(client, model="tools", stream_options=usage) for _ in range(2)]
    plain, how = await whole(client, model="tools")

    assert (first[1], again[1], how) == ("miss", "hit", "hit")
    assert again[0] == first[0]
    assert again[0][-1]["usage"]["total_tokens"] == 5
    message = plain["choices"][0]["message"]
    assert [dict(call) for call in message["tool_calls"]] == CALLS
    assert message["reasoning_content"] == "two tools"
    assert plain["choices"][0]["finish_reason"] == "tool_calls"
    assert plain["usage"]["total_tokens"] == 5
    assert len(upstream.requests) == 1


async def test_a_plain_answer_is_a_stream_to_one_who_wants_that(
    client: AsyncOpenAI, upstream: Loopback
) -> None:
    message = {"role": "assistant", "content": "Hello world, " * 9, "tool_calls": CALLS}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    upstream.script(answers({**COMPLETION, "choices": [choice]}))
    await whole(client, model="turned")

    async with client.chat.completions.stream(model="turned", messages=HI) as stream:
        final = await stream.get_final_completion()
    chunks, how = await streamed(client, model="turned")

    said = final.choices[0].message
    assert said.content == "Hello world, " * 9
    assert [call.function.arguments for call in said.tool_calls or ()] == ['{"x": 1}', "{}"]
    assert how == "hit"
    assert len(chunks) > 5
    assert all(chunk["usage"] is None for chunk in chunks)


CHOICES = [
    {
        "index": n,
        "message": {"role": "assistant", "content": text, "reasoning_content": f"why {n}"},
        "finish_reason": finish,
    }
    for n, (text, finish) in enumerate([("Hello. " * 9, "stop"), ("Good day. " * 9, "length")])
]


async def test_several_choices_are_told_in_either_form(
    client: AsyncOpenAI, upstream: Loopback
) -> None:
    upstream.script(answers({**COMPLETION, "choices": CHOICES, "usage": USAGE}))
    first, _ = await whole(client, model="choices", n=2)

    usage: Any = {"include_usage": True}
    chunks, how = await streamed(client, model="choices", n=2, stream_options=usage)

    assert how == "hit"
    assert [put_together(chunks, n) for n in (0, 1)] == [
        (each["message"]["content"], each["message"]["reasoning_content"], each["finish_reason"])
        for each in first["choices"]
    ]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] == first["usage"]["total_tokens"] == 5
    assert {chunk["id"] for chunk in chunks} == {first["id"]}
    assert len(upstream.requests) == 1


async def test_several_choices_of_a_stream_are_told_as_a_whole(
    client: AsyncOpenAI, upstream: Loopback
) -> None:
    said: list[tuple[int, dict[str, str], str | None]] = [
        (n, {"content": word}, None) for word in ("Hel", "lo") for n in (0, 1)
    ]
    said += [(n, {}, finish) for n, finish in enumerate(("stop", "length"))]
    parts = [
        {**delta(), "choices": [{"index": n, "delta": more, "finish_reason": finish}]}
        for n, more, finish in said
    ]
    upstream.script(streams(*parts, {**delta(), "choices": [], "usage": USAGE}))
    live, _ = await streamed(client, model="several", n=2)

    plain, how = await whole(client, model="several", n=2)
    again, _ = await streamed(client, model="several", n=2)

    assert (how, again) == ("hit", live)
    assert [
        (c["index"], c["message"]["content"], c["finish_reason"]) for c in plain["choices"]
    ] == [
        (0, "Hello", "stop"),
        (1, "Hello", "length"),
    ]
    assert plain["usage"]["total_tokens"] == 5


def put_together(chunks: list[Any], index: int) -> tuple[str, str, str | None]:
    """Text, reasoning and finish of a choice."""
    parts = [part for each in chunks for part in each["choices"] if part["index"] == index]
    deltas = [part["delta"] for part in parts]
    text = "".join(delta.get("content") or "" for delta in deltas)
    reasoning = "".join(delta.get("reasoning_content") or "" for delta in deltas)
    return text, reasoning, parts[-1]["finish_reason"]


async def test_embeddings_are_asked_for_input_by_input(
    client: AsyncOpenAI, upstream: Loopback
) -> None:
    def vectors(*numbers: float) -> Steps:
        data = [
            {
                "object": "embedding",
                "index": n,
                "embedding": base64.b64encode(struct.pack("<2f", number, 0.5)).decode(),
            }
            for n, number in enumerate(numbers)
        ]
        tokens = {"prompt_tokens": 2 * len(data), "total_tokens": 2 * len(data)}
        return answers({"object": "list", "data": data, "model": "e", "usage": tokens})

    upstream.script(vectors(1, 2), vectors(3))
    await client.embeddings.create(model="e", input=["one", "two"])

    mixed = await client.embeddings.create(model="e", input=["two", "three", "one"])

    assert [each.embedding for each in mixed.data] == [[2, 0.5], [3, 0.5], [1, 0.5]]
    assert [each.index for each in mixed.data] == [0, 1, 2]
    assert mixed.usage.total_tokens == 6
    assert [json.loads(each.body)["input"] for each in upstream.requests] == [
        ["one", "two"],
        ["three"],
    ]


async def test_callers_do_not_get_each_others_answers(
    client: AsyncOpenAI, upstream: Loopback
) -> None:
    upstream.script(answers(COMPLETION))
    bob = client.with_options(api_key=KEYS["bob"])

    told = [(await whole(who, model="apart"))[1] for who in (client, bob, client, bob)]

    assert told == ["miss", "miss", "hit", "hit"]


async def test_only_if_cached_is_refused_in_openais_shape(
    client: AsyncOpenAI, upstream: Loopback
) -> None:
    with pytest.raises(APIStatusError) as refused:
        await whole(client, model="never", extra_headers={"cache-control": "only-if-cached"})

    assert refused.value.status_code == 504
    assert refused.value.code == "not_cached"
    assert not upstream.requests


async def test_the_access_log_has_no_attempt_for_a_hit(
    client: AsyncOpenAI, gateway: Served, upstream: Loopback
) -> None:
    upstream.script(answers(COMPLETION))
    await whole(client, model="logged")
    raw = await client.chat.completions.with_raw_response.create(messages=HI, model="logged")

    row = await gateway.row(raw.headers["x-request-id"])

    assert row["status"] == 200
    assert row["attempts"] == []
    assert raw.headers["x-headrace-upstream"] == "here"
    assert raw.headers["cache-status"].startswith("headrace; hit; ttl=")
    assert int(raw.headers["age"]) < 60


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_a_thousand_clients_are_answered_by_one_call(
    gateway: Served,
    upstream: Loopback,
    stream: bool,
    record_property: Note,
) -> None:
    upstream.script(streams(*EVENTS) if stream else answers(COMPLETION))
    body = chat(model=f"many-{stream}", stream=stream)
    request = post("/v1/chat/completions", body, f"authorization: Bearer {KEYS['ann']}")
    few = asyncio.Semaphore(200)

    async def one() -> bytes:
        async with few, wire(gateway.url) as connection:
            await connection.send(request)
            return await connection.rest(20)

    name = f"1,000 clients, one question, {'streamed' if stream else 'plain'}"
    with measured(name, record_property):
        told = await asyncio.gather(*(one() for _ in range(1000)))

    assert len(upstream.requests) == 1
    bodies = {each.partition(b"\r\n\r\n")[2] for each in told}
    assert len(bodies) == 1
    assert b"Hello" in bodies.pop()


async def test_one_that_does_not_read_harms_nobody(
    gateway: Served, client: AsyncOpenAI, upstream: Loopback
) -> None:
    words = [delta(content="x" * 1000)] * 3000
    upstream.script(streams(*words, delta("stop")))
    body = chat(model="small", stream=True)
    request = post("/v1/chat/completions", body, f"authorization: Bearer {KEYS['ann']}")
    async with wire(gateway.url) as stuck:
        stuck.stop_reading()
        await stuck.send(request)
        await eventually(lambda: bool(upstream.requests))

        chunks, _ = await streamed(client, model="small")

    assert sum(len(c["choices"][0]["delta"]["content"] or "") for c in chunks) == 3_000_000


async def test_an_answer_that_breaks_is_told_and_not_kept(
    client: AsyncOpenAI, upstream: Loopback
) -> None:
    broken: Steps = (STREAM, *(chunk(event(each)) for each in EVENTS[:2]), Act.RESET)
    upstream.script(broken, streams(*EVENTS))

    with pytest.raises(Exception, match="broke off"):
        await streamed(client, model="broken")
    _, how = await streamed(client, model="broken")

    assert how == "miss"
