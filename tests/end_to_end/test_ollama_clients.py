"""Ollama's own client through the gateway, and OpenAI's client to an Ollama server.

The server is scripted after docs/api.md, docs/api/streaming.mdx and docs/api/errors.mdx at
github.com/ollama/ollama.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import ollama
import openai
import pytest

from headrace.testing import Loopback
from headrace.testing.misbehaviour import (
    LAST_CHUNK,
    Act,
    Behaviour,
    Received,
    Step,
    Steps,
    answers,
    chunk,
    head,
    status,
)

from .serving import Note, Served, measured, serving

CONFIG = """
    upstreams:
      ollama: {forwarder: {ollama: {base_url: "${UPSTREAM}", api_key: sk-of-the-gateway}}}
    routes: {"/api/*": {targets: ollama}, "*": ollama}
    """
HI: Any = [{"role": "user", "content": "why is the sky blue?"}]
STREAM = head(200, "content-type: application/x-ndjson", "transfer-encoding: chunked")
END: dict[str, Any] = {
    "done": True,
    "done_reason": "stop",
    "prompt_eval_count": 26,
    "eval_count": 3,
}
TAGS = {
    "models": [
        {
            "name": "deepseek-r1:latest",
            "model": "deepseek-r1:latest",
            "modified_at": "2025-05-10T08:06:48.639712648-07:00",
            "size": 4683075271,
            "digest": "0a8c266910232fd3291e71e5ba1e058cc5af9d411192cf88b6d30e92b6e73163",
            "details": {
                "parent_model": "",
                "format": "gguf",
                "family": "qwen2",
                "families": ["qwen2"],
                "parameter_size": "7.6B",
                "quantization_level": "Q4_K_M",
            },
        }
    ]
}
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def line(content: str = "", **members: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, **members.pop("message", {})}
    created = "2023-08-04T08:52:19.385406455-07:00"
    return {
        "model": "llama3.2",
        "created_at": created,
        "message": message,
        "done": False,
        **members,
    }


def lines(*values: dict[str, Any], end: Step = LAST_CHUNK) -> tuple[Step, ...]:
    return (STREAM, *(chunk(json.dumps(value).encode() + b"\n") for value in values), end)


def asks(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return line(message={"tool_calls": [{"function": {"name": name, "arguments": arguments}}]})


def a_server(received: Received) -> Steps:
    """What an Ollama server with one model answers."""
    asked = json.loads(received.body or b"{}")
    match received.method, received.target:
        case "GET", "/api/tags":
            return answers(TAGS)
        case "GET", "/api/version":
            return answers({"version": "0.5.1"})
        case "POST", "/api/embed":
            vectors = [[0.5, -0.25] for _ in asked["input"]]
            return answers({"model": asked["model"], "embeddings": vectors, "prompt_eval_count": 8})
        case "POST", "/api/chat" if asked["model"] != "llama3.2":
            return status(404, {"error": f"model '{asked['model']}' not found"})
        case "POST", "/api/chat" if asked.get("tools"):
            said = [asks("weather", {"city": "Zürich"}), asks("weather", {"city": "Bern"})]
        case "POST", "/api/chat":
            said = [line("The"), line(" sky")]
        case _:
            return status(404, b"404 page not found")
    if asked.get("stream", True):
        return lines(*said, line(**END))
    calls = [call for part in said for call in part["message"].get("tool_calls", ())]
    text = "".join(part["message"]["content"] for part in said)
    return answers(line(text, message={"tool_calls": calls} if calls else {}, **END))


@pytest.fixture(scope="module")
async def gateway(server: Loopback) -> AsyncIterator[Served]:
    server.script(a_server)  # it is asked for its models at once
    async with serving(CONFIG, UPSTREAM=server.url) as served:
        yield served


@pytest.fixture
def scripted(upstream: Loopback) -> Loopback:
    upstream.script(a_server)
    return upstream


@pytest.fixture
async def client(gateway: Served, scripted: Loopback) -> AsyncIterator[ollama.AsyncClient]:
    client = ollama.AsyncClient(host=gateway.url)
    yield client
    await client._client.aclose()


@pytest.fixture
async def openais(gateway: Served, scripted: Loopback) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{gateway.url}/v1", api_key="any", max_retries=0
    ) as client:
        yield client


# Ollama's client, passed through


async def test_its_client_chats(client: ollama.AsyncClient, scripted: Loopback) -> None:
    said = await client.chat("llama3.2", HI, options={"num_ctx": 4096}, keep_alive="1h")

    assert said.message.content == "The sky"
    assert (said.prompt_eval_count, said.eval_count) == (26, 3)
    asked = json.loads(scripted.requests[0].body)
    assert (asked["options"], asked["keep_alive"]) == ({"num_ctx": 4096}, "1h")


async def test_its_client_streams(client: ollama.AsyncClient) -> None:
    parts = [part async for part in await client.chat("llama3.2", HI, stream=True)]

    assert "".join(part.message.content or "" for part in parts) == "The sky"
    assert [part.done for part in parts] == [False, False, True]


async def test_its_synchronous_client_does_as_well(gateway: Served, scripted: Loopback) -> None:
    def ask() -> str:
        client = ollama.Client(host=gateway.url)
        try:
            parts = client.chat("llama3.2", HI, stream=True)
            return "".join(part.message.content or "" for part in parts)
        finally:
            client._client.close()

    assert await asyncio.to_thread(ask) == "The sky"


async def test_its_client_is_told_the_words_as_they_come(
    client: ollama.AsyncClient, scripted: Loopback
) -> None:
    scripted.script(lines(line("The"), end=Act.STALL))

    parts = aiter(await client.chat("llama3.2", HI, stream=True))

    assert (await anext(parts)).message.content == "The"


async def test_its_client_calls_tools(client: ollama.AsyncClient) -> None:
    said = await client.chat("llama3.2", HI, tools=[WEATHER])

    calls = said.message.tool_calls or []
    assert [call.function.arguments for call in calls] == [{"city": "Zürich"}, {"city": "Bern"}]


async def test_its_client_embeds(client: ollama.AsyncClient) -> None:
    said = await client.embed("all-minilm", ["why", "how"])

    assert said.embeddings == [[0.5, -0.25], [0.5, -0.25]]


async def test_its_client_lists_the_models(client: ollama.AsyncClient) -> None:
    listed = await client.list()

    assert [model.model for model in listed.models] == ["deepseek-r1:latest"]


async def test_its_client_is_told_of_a_model_that_is_not_there(client: ollama.AsyncClient) -> None:
    with pytest.raises(ollama.ResponseError) as missing:
        await client.chat("llama9", HI)

    assert (missing.value.status_code, missing.value.error) == (404, "model 'llama9' not found")


async def test_its_client_is_told_of_a_failure_in_mid_stream(
    client: ollama.AsyncClient, scripted: Loopback
) -> None:
    scripted.script(lines(line("The"), {"error": "an error was encountered"}))
    parts = aiter(await client.chat("llama3.2", HI, stream=True))
    await anext(parts)

    with pytest.raises(ollama.ResponseError, match="an error was encountered"):
        await anext(parts)


@pytest.mark.parametrize("how", [Act.CLOSE, Act.RESET])
async def test_its_client_never_takes_half_a_stream_for_a_whole_one(
    client: ollama.AsyncClient, scripted: Loopback, how: Act
) -> None:
    scripted.script(lines(line("The"), end=how))
    parts = aiter(await client.chat("llama3.2", HI, stream=True))

    with pytest.raises((httpx.RemoteProtocolError, ollama.ResponseError)):
        [part async for part in parts]


async def test_an_ollama_stream_that_is_closed_early_closes_the_upstream(
    client: ollama.AsyncClient, scripted: Loopback, record_property: Note
) -> None:
    scripted.script(lines(line("The"), end=Act.STALL))
    parts: Any = await client.chat("llama3.2", HI, stream=True)
    await anext(parts)

    with measured("an ollama stream closed early closes its upstream", record_property):
        await parts.aclose()
        await scripted.closed(scripted.requests[0].connection, within=1)


async def test_the_server_gets_the_gateways_key_and_never_the_clients(
    gateway: Served, scripted: Loopback
) -> None:
    client = ollama.AsyncClient(host=gateway.url, headers={"authorization": "Bearer sk-anns"})
    await client.list()
    await client._client.aclose()

    assert scripted.requests[0].header("authorization") == "Bearer sk-of-the-gateway"


async def test_a_pull_is_passed_through_as_it_goes(
    client: ollama.AsyncClient, scripted: Loopback
) -> None:
    """Listed in docs/api.md, "Pull a Model": a stream whose lines are neither chat nor text."""
    done: Iterator[int] = iter(range(0, 101, 50))
    steps: Any = [{"status": "pulling", "total": 100, "completed": n} for n in done]
    scripted.script(lines(*steps, {"status": "success"}))

    told = [part async for part in await client.pull("llama3.2", stream=True)]

    assert [part.completed for part in told] == [0, 50, 100, None]
    assert told[-1].status == "success"


# OpenAI's client, translated


async def test_openais_client_chats(openais: openai.AsyncOpenAI, scripted: Loopback) -> None:
    said = await openais.chat.completions.create(
        model="llama3.2", messages=HI, max_tokens=9, temperature=0.1, stop="\n"
    )

    assert said.choices[0].message.content == "The sky"
    assert said.choices[0].finish_reason == "stop"
    assert said.usage and (said.usage.prompt_tokens, said.usage.completion_tokens) == (26, 3)
    (asked,) = scripted.requests
    assert asked.target == "/api/chat"
    options = json.loads(asked.body)["options"]
    assert options == {"num_predict": 9, "temperature": 0.1, "top_p": 1.0, "stop": ["\n"]}


async def test_lines_become_events(openais: openai.AsyncOpenAI, gateway: Served) -> None:
    raw = await openais.chat.completions.with_raw_response.create(
        model="llama3.2", messages=HI, stream=True, stream_options={"include_usage": True}
    )
    parts = [part async for part in raw.parse()]

    assert raw.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert "".join(p.choices[0].delta.content or "" for p in parts if p.choices) == "The sky"
    assert len({(part.id, part.created) for part in parts}) == 1
    assert parts[-1].usage and parts[-1].usage.total_tokens == 29
    row = await gateway.row(raw.headers["x-request-id"])
    assert (row["upstream"], row["tokens"]["output"], row["outcome"]) == ("ollama", 3, "ok")


@pytest.mark.parametrize("stream", [False, True])
async def test_openais_client_calls_several_tools(
    openais: openai.AsyncOpenAI, stream: bool
) -> None:
    asked: Any = {"model": "llama3.2", "messages": HI, "tools": [WEATHER]}
    if stream:
        async with openais.chat.completions.stream(**asked) as parts:
            said: Any = await parts.get_final_completion()
    else:
        said = await openais.chat.completions.create(**asked)

    (choice,) = said.choices
    assert choice.finish_reason == "tool_calls"
    assert [json.loads(call.function.arguments) for call in choice.message.tool_calls] == [
        {"city": "Zürich"}, {"city": "Bern"},
    ]  # fmt: skip
    assert len({call.id for call in choice.message.tool_calls}) == 2


@pytest.mark.parametrize("encoding", ["float", "base64", None])
async def test_openais_client_embeds(openais: openai.AsyncOpenAI, encoding: Any) -> None:
    wanted = {} if encoding is None else {"encoding_format": encoding}

    said = await openais.embeddings.create(model="all-minilm", input=["why", "how"], **wanted)

    vectors: list[Any] = [item.embedding for item in said.data]
    assert vectors == [[0.5, -0.25]] * 2 if encoding != "base64" else all(vectors)
    assert said.usage.prompt_tokens == 8


async def test_openais_client_lists_what_the_server_has(openais: openai.AsyncOpenAI) -> None:
    listed = [model.id async for model in openais.models.list()]

    assert "ollama/deepseek-r1:latest" in listed


@pytest.mark.parametrize(
    ("said", "raised", "code"),
    [
        (status(404, {"error": "model 'x' not found"}), openai.NotFoundError, "model_not_found"),
        (status(400, {"error": "x does not support tools"}), openai.BadRequestError, None),
        (status(500, {"error": "llama runner process has terminated"}), openai.APIError, None),
        (status(503, {"error": "server busy"}), openai.InternalServerError, None),
        (lines({"error": "it broke at once"}), openai.InternalServerError, None),
        (lines(line("")), openai.InternalServerError, "upstream_truncated"),
    ],
)
async def test_openais_client_is_told_of_a_failure_before_the_first_word(
    openais: openai.AsyncOpenAI,
    scripted: Loopback,
    said: Behaviour,
    raised: type[openai.APIStatusError],
    code: str | None,
) -> None:
    scripted.script(said)

    with pytest.raises(raised) as failed:
        await openais.chat.completions.create(model="llama3.2", messages=HI, stream=True)

    assert isinstance(failed.value, openai.APIStatusError)
    assert code in (None, failed.value.code)


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (chunk(b'{"error": "an error was encountered"}\n') + LAST_CHUNK, "upstream_502"),
        (LAST_CHUNK, "upstream_truncated"),
        (Act.CLOSE, "upstream_truncated"),
        (chunk(b"not json\n"), "upstream_invalid"),
    ],
)
async def test_openais_client_is_told_of_a_failure_in_mid_stream(
    openais: openai.AsyncOpenAI, scripted: Loopback, end: Step, code: str
) -> None:
    scripted.script(lines(line("The"), end=end))
    parts = await openais.chat.completions.create(model="llama3.2", messages=HI, stream=True)
    await anext(parts)

    with pytest.raises(openai.APIError) as failed:
        [part async for part in parts]

    assert failed.value.code == code
