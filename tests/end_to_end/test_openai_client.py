"""OpenAI's own Python client, told nothing but a base URL.

What the upstream says is in the shapes of platform.openai.com/docs/api-reference: "The chat
completion object", "The chat completion chunk object", "Completions", "Embeddings", "Models".
"""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from headrace.testing import Loopback
from headrace.testing.misbehaviour import (
    COMPLETION,
    EVENTS,
    STREAM,
    Act,
    Received,
    Steps,
    answers,
    chunk,
    delta,
    event,
    status,
    streams,
    whole,
)

from .serving import Note, Served, measured, serving

KEY = "sk-anns"
CONFIG = f"""
    server:
      max_body: 1MB
      timeouts: {{connect: 1s, first_event: 3s, idle: 3s, total: 10s}}
      chain: [api_key: {{keys: {{"{sha256(KEY.encode()).hexdigest()}": ann}}}}]
    upstreams:
      here:
        forwarder: {{openai: {{base_url: "${{UPSTREAM}}/v1", api_key: sk-of-the-gateway}}}}
        models: [m, acme/llama-3/8b]
      patient:
        forwarder: {{openai: {{base_url: "${{UPSTREAM}}/v1"}}}}
        models: [p]
        plugins: [retry: {{attempts: 3, wait: 10ms}}]
        retry_budget: 100  # its tests follow each other quickly
    routes:
      m: here
      acme/llama-3/8b: here
      patient: patient/p
      "ft:*": here
      /v1/files*: here
    """
HI: Any = [{"role": "user", "content": "hi"}]
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


@pytest.fixture(scope="module")
async def gateway(server: Loopback) -> AsyncIterator[Served]:
    async with serving(CONFIG, UPSTREAM=server.url) as served:
        yield served


@pytest.fixture
async def client(gateway: Served, upstream: Loopback) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


# By a base URL alone


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
async def test_the_base_url_may_end_as_people_write_it(
    gateway: Served, upstream: Loopback, suffix: str
) -> None:
    upstream.script(answers(COMPLETION))

    async with AsyncOpenAI(base_url=gateway.url + suffix, api_key=KEY) as client:
        said = await client.chat.completions.create(model="m", messages=HI)

    assert said.choices[0].message.content == "Hello world"
    assert upstream.requests[0].target == "/v1/chat/completions"


async def test_the_synchronous_client_gets_the_same(gateway: Served, upstream: Loopback) -> None:
    upstream.script(answers(COMPLETION), streams(*EVENTS))

    def ask() -> tuple[str | None, list[str]]:
        with OpenAI(base_url=f"{gateway.url}/v1", api_key=KEY, max_retries=0) as client:
            whole = client.chat.completions.create(model="m", messages=HI)
            parts = client.chat.completions.create(model="m", messages=HI, stream=True)
            return whole.choices[0].message.content, [
                part.choices[0].delta.content or "" for part in parts
            ]

    assert await asyncio.to_thread(ask) == ("Hello world", ["", "Hello", " world", ""])


async def test_the_upstream_gets_its_own_key_and_never_the_clients(
    client: AsyncOpenAI, upstream: Loopback
) -> None:
    upstream.script(answers(COMPLETION))

    await client.chat.completions.create(model="m", messages=HI, extra_headers={"cookie": "a=b"})

    (asked,) = upstream.requests
    assert asked.header("authorization") == "Bearer sk-of-the-gateway"
    assert KEY not in str(asked)
    assert {name.lower() for name, _ in asked.headers} <= {
        *("host", "accept", "accept-encoding", "authorization", "content-type", "content-length"),
        *("user-agent", "cdn-loop"),
    }


@pytest.mark.parametrize("header", ["x-api-key", "api-key"])
async def test_a_key_may_come_as_other_clients_send_it(
    gateway: Served, upstream: Loopback, header: str
) -> None:
    upstream.script(answers(COMPLETION))
    headers: Any = {"authorization": openai.Omit(), header: KEY}

    async with AsyncOpenAI(base_url=gateway.url, api_key="unused") as client:
        said = await client.chat.completions.create(model="m", messages=HI, extra_headers=headers)

    assert said.id == "chatcmpl-1"


# Streams


async def test_a_stream_comes_as_it_is_said(client: AsyncOpenAI, upstream: Loopback) -> None:
    head, role, hello, *_ = streams(*EVENTS)
    upstream.script((head, role, hello, Act.STALL))

    async with await client.chat.completions.create(model="m", messages=HI, stream=True) as words:
        assert (await anext(words)).choices[0].delta.role == "assistant"
        assert (await anext(words)).choices[0].delta.content == "Hello"


async def test_a_stream_tells_its_usage_to_who_asks(
    client: AsyncOpenAI, upstream: Loopback
) -> None:
    upstream.script(counting)

    asked = [
        part
        async for part in await client.chat.completions.create(
            model="m", messages=HI, stream=True, stream_options={"include_usage": True}
        )
    ]

    assert asked[-1].choices == []
    assert asked[-1].usage and asked[-1].usage.total_tokens == 5


async def test_a_stream_hides_its_usage_from_who_does_not(
    client: AsyncOpenAI, upstream: Loopback, gateway: Served
) -> None:
    upstream.script(counting)

    raw = await client.chat.completions.with_raw_response.create(
        model="m", messages=HI, stream=True
    )
    parts = [part async for part in raw.parse()]

    assert [len(part.choices) for part in parts] == [1, 1, 1, 1]
    assert {part.usage for part in parts} == {None}
    row = await gateway.row(raw.headers["x-request-id"])
    assert row["tokens"] == {"input": 3, "output": 2, "estimated": False}


def counting(received: Received) -> Steps:
    """A stream that tells its usage where it is asked for it, as OpenAI's does."""
    options = json.loads(received.body).get("stream_options") or {}
    told = [{**delta(), "choices": [], "usage": USAGE}] if options.get("include_usage") else []
    return streams(*EVENTS, *told)


async def test_the_sdks_own_stream_helper_works(client: AsyncOpenAI, upstream: Loopback) -> None:
    upstream.script(streams(*EVENTS))

    async with client.chat.completions.stream(model="m", messages=HI) as stream:
        told = [event.delta async for event in stream if event.type == "content.delta"]
        whole = await stream.get_final_completion()

    assert "".join(told) == "Hello world"
    assert whole.choices[0].message.content == "Hello world"


async def test_a_failure_in_mid_stream_is_raised_after_the_words_before_it(
    client: AsyncOpenAI, upstream: Loopback
) -> None:
    head, role, hello, *_ = streams(*EVENTS)
    upstream.script((head, role, hello, Act.CLOSE))
    stream = await client.chat.completions.create(model="m", messages=HI, stream=True)
    words = [(await anext(stream)).choices[0].delta.content for _ in range(2)]
    with pytest.raises(openai.APIError) as failed:
        await anext(stream)

    assert words == ["", "Hello"]
    assert failed.value.code == "upstream_truncated"
    assert failed.value.type == "upstream_error"


async def test_an_upstreams_own_error_in_mid_stream_is_raised(
    client: AsyncOpenAI, upstream: Loopback
) -> None:
    told = {"error": {"message": "flux broke at sk-of-the-gateway", "code": "flux"}}
    upstream.script(streams(*EVENTS[:2], told, done=False))

    with pytest.raises(openai.APIError, match=r"flux broke at \*\*\*") as failed:
        async for _ in await client.chat.completions.create(model="m", messages=HI, stream=True):
            pass

    assert failed.value.code == "flux"


async def test_a_stream_that_is_closed_early_closes_the_upstream(
    client: AsyncOpenAI, upstream: Loopback, gateway: Served, record_property: Note
) -> None:
    head, *frames = streams(*EVENTS)
    upstream.script((head, *frames[:2], Act.STALL))
    stream = await client.chat.completions.create(model="m", messages=HI, stream=True)
    await anext(aiter(stream))

    with measured("an openai stream closed early closes its upstream", record_property):
        await stream.close()
        await upstream.closed(upstream.requests[0].connection, within=1)

    row = await gateway.row(stream.response.headers["x-request-id"])
    assert (row["outcome"], row["status"]) == ("client_closed", 200)


# Tools


def call_part(index: int, arguments: str, **more: str) -> dict[str, Any]:
    function = {"arguments": arguments, **({"name": more["name"]} if "name" in more else {})}
    begun = {"id": more["id"], "type": "function"} if "id" in more else {}
    return {"index": index, **begun, "function": function}


PARALLEL = (
    delta(role="assistant", content=None),
    delta(tool_calls=[call_part(0, "", id="call_a", name="weather")]),
    delta(tool_calls=[call_part(0, '{"city":')]),
    delta(tool_calls=[call_part(1, "", id="call_b", name="time")]),
    delta(tool_calls=[call_part(1, '{"zone": "Z')]),
    delta(tool_calls=[call_part(0, ' "Zürich"}'), call_part(1, 'ürich"}')]),
    delta("tool_calls"),
)


async def test_parallel_tool_calls_come_in_parts_and_are_put_together(
    client: AsyncOpenAI, upstream: Loopback
) -> None:
    upstream.script(streams(*PARALLEL))

    async with client.chat.completions.stream(model="m", messages=HI) as stream:
        whole = await stream.get_final_completion()

    (choice,) = whole.choices
    assert choice.finish_reason == "tool_calls"
    assert [
        (call.id, call.function.name, json.loads(call.function.arguments))
        for call in choice.message.tool_calls or ()
    ] == [
        ("call_a", "weather", {"city": "Zürich"}),
        ("call_b", "time", {"zone": "Zürich"}),
    ]


async def test_tools_and_their_results_reach_the_upstream_as_they_are(
    client: AsyncOpenAI, upstream: Loopback
) -> None:
    upstream.script(answers(COMPLETION))
    parameters = {"type": "object", "properties": {"n": {"type": "integer"}}, "x-ours": 12345678901}
    tools: Any = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    used: Any = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages: Any = [
        *HI,
        {"role": "assistant", "content": None, "tool_calls": [used]},
        {"role": "tool", "tool_call_id": "c", "content": "7"},
    ]

    await client.chat.completions.create(
        model="m", messages=messages, tools=tools, parallel_tool_calls=True
    )

    asked = json.loads(upstream.requests[0].body)
    assert asked["tools"] == tools
    assert asked["messages"] == messages
    assert asked["parallel_tool_calls"] is True


# Shapes of questions and answers


class City(BaseModel):
    name: str
    inhabitants: int


async def test_an_answer_is_parsed_by_its_schema(client: AsyncOpenAI, upstream: Loopback) -> None:
    message = {"role": "assistant", "content": '{"name": "Zürich", "inhabitants": 448664}'}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    upstream.script(answers({**COMPLETION, "choices": [choice]}))

    said = await client.chat.completions.parse(model="m", messages=HI, response_format=City)

    assert said.choices[0].message.parsed == City(name="Zürich", inhabitants=448664)
    asked = json.loads(upstream.requests[0].body)["response_format"]
    assert (asked["type"], asked["json_schema"]["strict"]) == ("json_schema", True)
    assert asked["json_schema"]["schema"]["required"] == ["name", "inhabitants"]


async def test_an_image_and_what_nobody_knows_pass_untouched(
    client: AsyncOpenAI, upstream: Loopback
) -> None:
    upstream.script(answers({**COMPLETION, "x_new": {"kept": [1, 2.50]}}))
    url = "data:image/png;base64," + base64.b64encode(bytes(range(256)) * 400).decode()
    content = [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": url}}]
    messages: Any = [{"role": "user", "content": content}]

    said = await client.chat.completions.create(
        model="m", messages=messages, extra_body={"x_unknown": {"seed": 2**70}}
    )

    asked = json.loads(upstream.requests[0].body)
    assert asked["messages"] == messages
    assert asked["x_unknown"] == {"seed": 2**70}
    assert said.model_extra == {"x_new": {"kept": [1, 2.5]}}


async def test_embeddings_come_as_base64_which_the_client_asks_for(
    client: AsyncOpenAI, upstream: Loopback
) -> None:
    upstream.script(answers(vectors(base64.b64encode(struct.pack("<2f", 0.5, -0.25)).decode())))

    said = await client.embeddings.create(model="m", input=["one"])

    assert said.data[0].embedding == [0.5, -0.25]
    assert json.loads(upstream.requests[0].body)["encoding_format"] == "base64"
    assert upstream.requests[0].target == "/v1/embeddings"


async def test_embeddings_come_as_numbers_where_they_are_asked_for(
    client: AsyncOpenAI, upstream: Loopback, gateway: Served
) -> None:
    upstream.script(answers(vectors([0.5, -0.25])))

    raw = await client.embeddings.with_raw_response.create(
        model="m", input="one", encoding_format="float"
    )

    assert raw.parse().data[0].embedding == [0.5, -0.25]
    row = await gateway.row(raw.headers["x-request-id"])
    assert (row["operation"], row["tokens"]["input"]) == ("embedding", 4)


def vectors(embedding: object) -> dict[str, Any]:
    data = [{"object": "embedding", "index": 0, "embedding": embedding}]
    usage = {"prompt_tokens": 4, "total_tokens": 4}
    return {"object": "list", "data": data, "model": "m", "usage": usage}


async def test_the_old_completions_are_answered_whole_and_in_parts(
    client: AsyncOpenAI, upstream: Loopback
) -> None:
    upstream.script(
        answers(completion("Hello world", "stop")),
        streams(completion("Hello", None), completion(" world", "stop")),
    )

    whole = await client.completions.create(model="m", prompt="say")
    parts = await client.completions.create(model="m", prompt="say", stream=True)

    assert whole.choices[0].text == "Hello world"
    assert [part.choices[0].text async for part in parts] == ["Hello", " world"]
    assert {asked.target for asked in upstream.requests} == {"/v1/completions"}


def completion(text: str, finish: str | None) -> dict[str, Any]:
    choice = {"index": 0, "text": text, "finish_reason": finish, "logprobs": None}
    told = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m"}
    return {**told, "choices": [choice]}


# Models


async def test_models_are_listed_by_the_names_they_can_be_asked_by(client: AsyncOpenAI) -> None:
    listed = [model async for model in client.models.list()]

    assert {"m", "acme/llama-3/8b", "patient", "here/m", "patient/p"} <= {m.id for m in listed}
    assert all(model.owned_by for model in listed)


@pytest.mark.parametrize("name", ["m", "acme/llama-3/8b", "here/acme/llama-3/8b", "ft:gpt-4o:ann"])
async def test_a_model_is_found_by_its_id_with_slashes(client: AsyncOpenAI, name: str) -> None:
    found = await client.models.retrieve(name)

    assert (found.id, found.owned_by) == (name, "here")


async def test_a_model_that_is_not_there_is_told_with_its_neighbours(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="acme/llama-3/8b") as failed:
        await client.models.retrieve("acme/llama-3/8")

    assert failed.value.code == "model_not_found"


async def test_a_name_with_slashes_reaches_the_upstream_whole(
    client: AsyncOpenAI, upstream: Loopback
) -> None:
    upstream.script(answers(COMPLETION))

    for name in ("acme/llama-3/8b", "here/acme/llama-3/8b"):
        await client.chat.completions.create(model=name, messages=HI)

    assert [json.loads(asked.body)["model"] for asked in upstream.requests] == [
        "acme/llama-3/8b", "acme/llama-3/8b",
    ]  # fmt: skip


# What nobody here reads


@pytest.mark.parametrize("suffix", ["", "/v1"])
async def test_files_are_passed_through(gateway: Served, upstream: Loopback, suffix: str) -> None:
    binary = bytes(range(256))
    download = (whole(binary, "content-type: application/octet-stream"),)
    upstream.script(answers({"id": "file-1"}), download, MISSING)

    async with AsyncOpenAI(base_url=gateway.url + suffix, api_key=KEY, max_retries=0) as client:
        sent = await client.files.create(file=("a.bin", binary), purpose="assistants")
        came = await client.files.content("file-1")
        with pytest.raises(openai.NotFoundError, match="no such file"):
            await client.files.retrieve("file-2")

    assert (sent.id, came.content) == ("file-1", binary)
    first, *_ = upstream.requests
    assert binary in first.body
    assert (first.header("content-type") or "").startswith("multipart/form-data; boundary=")
    assert [(asked.method, asked.target) for asked in upstream.requests] == [
        ("POST", "/v1/files"), ("GET", "/v1/files/file-1/content"), ("GET", "/v1/files/file-2"),
    ]  # fmt: skip


MISSING = status(404, {"error": {"message": "no such file"}})


async def test_a_body_that_is_too_large_is_told_as_such(
    client: AsyncOpenAI, upstream: Loopback
) -> None:
    large: Any = [{"role": "user", "content": "a" * 2_000_000}]

    with pytest.raises(openai.APIStatusError) as failed:
        await client.chat.completions.create(model="m", messages=large)

    assert (failed.value.status_code, failed.value.code) == (413, "request_too_large")
    assert upstream.requests == []


# Failures


@pytest.mark.parametrize(
    ("said", "raised", "shown", "kind"),
    [
        (400, openai.BadRequestError, 400, "invalid_request_error"),
        (401, openai.InternalServerError, 502, "upstream_error"),
        (403, openai.InternalServerError, 502, "upstream_error"),
        (404, openai.NotFoundError, 404, "invalid_request_error"),
        (409, openai.ConflictError, 409, "invalid_request_error"),
        (422, openai.UnprocessableEntityError, 422, "invalid_request_error"),
        (429, openai.RateLimitError, 429, "rate_limit_error"),
        (500, openai.InternalServerError, 502, "upstream_error"),
        (502, openai.InternalServerError, 502, "upstream_error"),
        (503, openai.InternalServerError, 503, "overloaded_error"),
        (504, openai.InternalServerError, 504, "timeout_error"),
        (529, openai.InternalServerError, 503, "overloaded_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_an_upstreams_refusal_is_raised_as_its_class(
    client: AsyncOpenAI,
    upstream: Loopback,
    gateway: Served,
    said: int,
    raised: type[openai.APIStatusError],
    shown: int,
    kind: str,
    stream: bool,
) -> None:
    upstream.script(status(said, {"error": {"message": "no sk-of-the-gateway", "code": "flux"}}))

    with pytest.raises(openai.APIStatusError) as failed:
        await client.chat.completions.create(model="m", messages=HI, stream=stream)

    error = failed.value
    assert type(error) is raised
    assert (error.status_code, error.type) == (shown, kind)
    ours = said in (401, 403)
    assert error.code == ("upstream_credentials" if ours else "flux")
    assert ("credentials" if ours else "no ***") in error.message
    assert "sk-of-the-gateway" not in error.response.text
    row = await gateway.row(error.request_id)
    assert (row["status"], row["outcome"], row["attempts"][0]["status"]) == (shown, "failed", said)


async def test_a_wrong_key_is_not_let_in(gateway: Served, upstream: Loopback) -> None:
    async with AsyncOpenAI(base_url=gateway.url, api_key="sk-wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as failed:
            await client.chat.completions.create(model="m", messages=HI)

    assert (failed.value.status_code, failed.value.code) == (401, "invalid_api_key")
    assert failed.value.type == "authentication_error"
    assert (await gateway.row(failed.value.request_id))["outcome"] == "refused"
    assert upstream.requests == []


@pytest.mark.parametrize(
    ("members", "status_code", "code", "param"),
    [
        ({"model": ""}, 400, "invalid_model", "model"),
        ({"model": "nobody"}, 404, "model_not_found", "model"),
        ({"model": "m", "stream": "yes"}, 400, "invalid_type", "stream"),
        ({"model": 7}, 400, "invalid_model", "model"),
    ],
)
async def test_a_clients_own_mistake_is_told_as_one(
    client: AsyncOpenAI, upstream: Loopback, members: Any, status_code: int, code: str, param: str
) -> None:
    with pytest.raises(openai.APIStatusError) as failed:
        await client.post("/chat/completions", body={"messages": HI, **members}, cast_to=object)

    error = failed.value
    assert (error.status_code, error.code, error.param) == (status_code, code, param)
    assert error.request_id
    assert upstream.requests == []


async def test_what_happened_is_in_the_headers(client: AsyncOpenAI, upstream: Loopback) -> None:
    upstream.script(
        answers(COMPLETION, "x-request-id: req_up", "openai-version: 2020", "set-cookie: a=b")
    )

    raw = await client.chat.completions.with_raw_response.create(
        model="m", messages=HI, extra_headers={"x-request-id": "mine-1"}
    )

    assert raw.request_id == "mine-1"
    assert raw.headers["x-headrace-upstream"] == "here"
    assert raw.headers["x-headrace-model"] == "m"
    assert raw.headers["x-headrace-attempts"] == "1"
    assert 0 <= float(raw.headers["x-headrace-overhead-ms"]) < 1000
    assert raw.headers["x-headrace-upstream-request-id"] == "req_up"
    assert raw.headers["openai-version"] == "2020"
    assert "set-cookie" not in raw.headers


async def test_a_failure_has_the_same_headers(client: AsyncOpenAI, upstream: Loopback) -> None:
    upstream.script(status(503, {"error": {"message": "busy"}}))

    with pytest.raises(openai.InternalServerError) as failed:
        await client.chat.completions.create(model="m", messages=HI)

    headers = failed.value.response.headers
    assert headers["x-request-id"] == failed.value.request_id
    assert (headers["x-headrace-upstream"], headers["x-headrace-attempts"]) == ("here", "1")


# Trying again


async def test_the_client_tries_again_as_the_upstream_asks(
    client: AsyncOpenAI, upstream: Loopback
) -> None:
    upstream.script(
        status(429, {"error": {"message": "slow"}}, "retry-after-ms: 20"), answers(COMPLETION)
    )

    said = await client.with_options(max_retries=2).chat.completions.create(model="m", messages=HI)

    assert said.id == "chatcmpl-1"
    assert len(upstream.requests) == 2


async def test_the_client_does_not_repeat_what_was_repeated_here(
    client: AsyncOpenAI, upstream: Loopback
) -> None:
    upstream.script(status(503, {"error": {"message": "busy"}}))

    with pytest.raises(openai.InternalServerError) as failed:
        await client.with_options(max_retries=2).chat.completions.create(
            model="patient", messages=HI
        )

    assert failed.value.response.headers["x-should-retry"] == "false"
    assert failed.value.response.headers["x-headrace-attempts"] == "3"
    assert len(upstream.requests) == 3


async def test_a_stream_is_tried_again_until_its_first_word(
    client: AsyncOpenAI, upstream: Loopback
) -> None:
    upstream.script(
        (STREAM, chunk(event(EVENTS[0])), Act.RESET),
        streams(EVENTS[0], {"error": {"message": "at once"}}, done=False),
        streams(*EVENTS),
    )

    stream = await client.chat.completions.create(model="patient", messages=HI, stream=True)

    assert "".join([p.choices[0].delta.content or "" async for p in stream]) == "Hello world"
    assert len(upstream.requests) == 3


# Giving up


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_gives_up_closes_the_upstream(
    client: AsyncOpenAI,
    upstream: Loopback,
    gateway: Served,
    stream: bool,
    record_property: Note,
) -> None:
    upstream.script("never")
    headers = {"x-request-id": f"gone-{stream}", "x-stainless-read-timeout": "9"}

    with pytest.raises(openai.APITimeoutError):
        await client.with_options(timeout=0.2).chat.completions.create(
            model="m", messages=HI, stream=stream, extra_headers=headers
        )
    with measured(f"an openai timeout closes its upstream ({stream=})", record_property):
        await upstream.closed(upstream.requests[0].connection, within=1)

    row = await gateway.row(f"gone-{stream}")
    assert (row["outcome"], row["status"]) == ("client_closed", 499)
    assert len(upstream.requests) == 1


async def test_a_stream_is_waited_for_no_longer_than_its_client_would(
    client: AsyncOpenAI, upstream: Loopback
) -> None:
    upstream.script("never")

    with pytest.raises(openai.InternalServerError) as failed:
        await client.chat.completions.create(
            model="m", messages=HI, stream=True, extra_headers={"x-stainless-read-timeout": "0.1"}
        )

    assert (failed.value.status_code, failed.value.code) == (504, "first_byte_timeout")
