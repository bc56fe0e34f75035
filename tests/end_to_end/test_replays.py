"""What servers send, cut anywhere, reaches a client unchanged."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from openai import AsyncOpenAI

from headrace.testing import Loopback
from headrace.testing.misbehaviour import LAST_CHUNK, Step, chunk, cut, head, whole

from .serving import Served, chat, serving

OPENAI = "platform.openai.com/docs"
OLLAMAS = "github.com/ollama/ollama"
PAGES = {
    "openai_text.sse": f"{OPENAI}/api-reference/chat-streaming",
    "openai_usage.sse": f"{OPENAI}/api-reference/chat/create: stream_options, obfuscation",
    "openai_tools.sse": f"{OPENAI}/guides/function-calling: streaming",
    "openai_completion.sse": f"{OPENAI}/api-reference/completions/object",
    "openai_text.json": f"{OPENAI}/api-reference/chat/object",
    "openai_logprobs.json": f"{OPENAI}/api-reference/chat/create: logprobs",
    "openai_tools.json": f"{OPENAI}/api-reference/chat/create: functions",
    "azure_filters.sse": "learn.microsoft.com/azure/ai-services/openai/concepts/content-streaming",
    "vllm_reasoning.sse": "docs.vllm.ai/en/latest/features/reasoning_outputs.html",
    "llamacpp_timings.sse": "github.com/ggml-org/llama.cpp: tools/server/README.md",
    "deepseek_reasoning.sse": "api-docs.deepseek.com/guides/reasoning_model, and keep-alive of:",
    "deepseek_empty_lines.json": "api-docs.deepseek.com/quick_start/rate_limit",
    "openrouter_comments.sse": "openrouter.ai/docs/api-reference/streaming: comments",
    "groq_usage.sse": "console.groq.com/docs/text-chat: streaming, usage in x_groq",
    "mistral_crlf.sse": "docs.mistral.ai/api: usage in the last chunk; CR LF is ours",
    "gemini_text.sse": "ai.google.dev/gemini-api/docs/openai: no role chunk, text with the finish",
    "ollama_chat.ndjson": f"{OLLAMAS}: docs/api.md, Generate a chat completion",
    "ollama_chat.json": f"{OLLAMAS}: docs/api.md, Generate a chat completion",
    "ollama_tools.ndjson": f"{OLLAMAS}: docs/api.md, Chat request (with tools)",
    "ollama_thinking.ndjson": f"{OLLAMAS}: docs/api.md, Chat request with thinking",
    "ollama_length.ndjson": f"{OLLAMAS}: docs/api/streaming.mdx, a last line with text",
    "ollama_embed.json": f"{OLLAMAS}: docs/api.md, Generate Embeddings",
}
"""What each file was written after, by hand; none was recorded from a service."""
WIRE = Path(__file__).with_name("wire")
OPENAI_STREAMS = [name for name in PAGES if name.endswith(".sse")]
OPENAI_ANSWERS = [n for n in PAGES if n.endswith(".json") and not n.startswith("ollama")]
OLLAMA = [name for name in PAGES if name.startswith("ollama")]
SIZES = [1, 2, 7, 61]
TYPES = {
    ".sse": "text/event-stream",
    ".ndjson": "application/x-ndjson",
    ".json": "application/json",
}
CONFIG = """
    upstreams:
      here: {forwarder: {openai: {base_url: "${UPSTREAM}/v1"}}}
      ollama: {forwarder: {ollama: {base_url: "${UPSTREAM}"}}}
    routes: {m: here, llama: ollama, "/api/*": ollama}
    """
HI: Any = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
async def gateway(server: Loopback) -> AsyncIterator[Served]:
    async with serving(CONFIG, UPSTREAM=server.url) as served:
        yield served


@pytest.fixture(scope="module")
async def http(gateway: Served) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=gateway.url) as http:
        yield http


def body(name: str) -> bytes:
    return (WIRE / name).read_bytes()


def replay(name: str) -> tuple[Step, ...]:
    """The file as a server sends it: streams with their length unknown, answers with theirs."""
    media = f"content-type: {TYPES[Path(name).suffix]}"
    if name.endswith(".json"):
        return (whole(body(name), media),)
    return (head(200, media, "transfer-encoding: chunked"), chunk(body(name)), LAST_CHUNK)


def test_every_file_has_its_page() -> None:
    assert {file.name for file in WIRE.iterdir()} == set(PAGES)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", OPENAI_STREAMS)
async def test_a_stream_arrives_byte_for_byte(
    http: httpx2.AsyncClient, upstream: Loopback, name: str, size: int
) -> None:
    upstream.script(cut(size, replay(name)))
    path = "/v1/completions" if "completion" in name else "/v1/chat/completions"

    told = await http.post(path, json=chat(stream=True, stream_options={"include_usage": True}))

    # Signs of life before the first event are over when it is there.
    assert told.content == re.sub(rb"^(: .*\n\n)+", b"", body(name))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", OPENAI_ANSWERS)
async def test_an_answer_arrives_byte_for_byte(
    http: httpx2.AsyncClient, upstream: Loopback, name: str, size: int
) -> None:
    upstream.script(cut(size, replay(name)))

    told = await http.post("/v1/chat/completions", json=chat())

    assert told.content == body(name)


@pytest.mark.parametrize("name", [n for n in OPENAI_STREAMS if "completion" not in n])
async def test_openais_client_sees_what_it_would_see_without_a_gateway(
    gateway: Served, upstream: Loopback, name: str
) -> None:
    upstream.script(cut(3, replay(name)))

    straight, through = [await seen(f"{url}/v1", "m") for url in (upstream.url, gateway.url)]

    assert through == straight
    assert len(straight) >= 2


async def seen(base_url: str, model: str) -> list[Any]:
    """The chunks that OpenAI's client gives out, as JSON."""
    async with AsyncOpenAI(base_url=base_url, api_key="any", max_retries=0) as client:
        stream = await client.chat.completions.create(
            model=model, messages=HI, stream=True, stream_options={"include_usage": True}
        )
        return [part.to_dict() async for part in stream]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", [name for name in OLLAMA if name.endswith(".ndjson")])
async def test_an_ollama_stream_is_the_same_however_it_is_cut(
    gateway: Served, upstream: Loopback, name: str, size: int
) -> None:
    upstream.script(replay(name), cut(size, replay(name)))

    at_once, in_pieces = [anonymous(await seen(f"{gateway.url}/v1", "llama")) for _ in "12"]

    assert in_pieces == at_once


@pytest.mark.parametrize("size", SIZES)
async def test_ollamas_answers_are_the_same_however_they_are_cut(
    http: httpx2.AsyncClient, upstream: Loopback, size: int
) -> None:
    answers: list[list[Any]] = []
    for way in (replay, lambda name: cut(size, replay(name))):
        upstream.script(way("ollama_chat.json"), way("ollama_embed.json"))
        said = await http.post("/v1/chat/completions", json=chat(model="llama"))
        vectors = await http.post("/v1/embeddings", json={"model": "llama", "input": ["a", "b"]})
        answers.append(anonymous([said.json(), vectors.json()]))

    assert answers[0] == answers[1]
    assert answers[0][0]["choices"][0]["message"]["content"] == "Hello! 今日は？"


def anonymous(said: list[Any]) -> list[Any]:
    """The same without the ids and times that the gateway makes up."""
    for part in said:
        part.pop("id", None)
        part.pop("created", None)
        for choice in part.get("choices", ()):
            for call in choice.get("delta", {}).get("tool_calls", ()):
                call["id"] = "call"
    return said


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", OLLAMA)
async def test_what_is_passed_through_arrives_byte_for_byte(
    http: httpx2.AsyncClient, upstream: Loopback, name: str, size: int
) -> None:
    upstream.script(cut(size, replay(name)))

    told = await http.post("/api/chat", json=chat())

    assert told.content == body(name)
    assert told.headers["content-type"] == TYPES[Path(name).suffix]


async def test_tool_calls_from_ollama_are_told_one_from_another(
    gateway: Served, upstream: Loopback
) -> None:
    upstream.script(replay("ollama_tools.ndjson"))

    parts = await seen(f"{gateway.url}/v1", "llama")

    calls = [
        call
        for part in parts
        for choice in part["choices"]
        for call in choice["delta"].get("tool_calls", ())
    ]
    assert [call["index"] for call in calls] == [0, 1]
    assert len({call["id"] for call in calls}) == 2
    assert [json.loads(call["function"]["arguments"]) for call in calls] == [
        {"city": "Tōkyō"},
        {"city": "Zürich", "id": 123456789012345678901234567890},
    ]
    assert [c["finish_reason"] for part in parts for c in part["choices"]][-1] == "tool_calls"


async def test_thinking_from_ollama_stands_beside_the_answer(
    gateway: Served, upstream: Loopback
) -> None:
    upstream.script(replay("ollama_thinking.ndjson"))

    parts = await seen(f"{gateway.url}/v1", "llama")

    deltas = [choice["delta"] for part in parts for choice in part["choices"]]
    assert "".join(delta.get("reasoning", "") for delta in deltas) == "Let me see.!"
    assert "".join(delta.get("content") or "" for delta in deltas) == "42"
    assert parts[-1]["usage"]["total_tokens"] == 169 + 15


async def test_a_length_from_ollama_stays_a_length(gateway: Served, upstream: Loopback) -> None:
    upstream.script(replay("ollama_length.ndjson"))

    parts = await seen(f"{gateway.url}/v1", "llama")

    choices = [choice for part in parts for choice in part["choices"]]
    assert "".join(choice["delta"].get("content") or "" for choice in choices) == "It was the"
    assert choices[-1]["finish_reason"] == "length"
