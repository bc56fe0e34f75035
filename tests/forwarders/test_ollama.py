"""The forwarder for Ollama, against a server on a real socket, and the official clients with it.

What the server says is from docs/api.md at github.com/ollama/ollama ("List Local Models",
"Generate a chat completion") and docs/api/errors.mdx there.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import ollama
import openai
import pytest

from headrace import OPENAI, PASSTHROUGH, Call, Found, Reply, Secret, Transport, UpstreamError
from headrace.testing import Loopback, ask, call, gateway, raw
from headrace.testing.misbehaviour import LAST_CHUNK, Act, Pause, Step, answers, chunk, head, status
from headrace_plugins.forwarders.ollama import Ollama
from headrace_plugins.transform import Transform

pytestmark = pytest.mark.anyio

NDJSON = head(200, "content-type: application/x-ndjson", "transfer-encoding: chunked")


def line(content: str = "", **members: Any) -> bytes:
    said = {"role": "assistant", "content": content}
    value = {"model": "llama3.2", "created_at": "2023-08-04T08:52:19.385406455-07:00"}
    return json.dumps({**value, "message": said, "done": False, **members}).encode() + b"\n"


LINES = (line("The"), line(" sky"), line(done=True, done_reason="stop", eval_count=2))
SKY: tuple[Step, ...] = (NDJSON, *map(chunk, LINES), LAST_CHUNK)
WHOLE = answers(json.loads(line("The sky", done=True, done_reason="stop", eval_count=2)))
MISSING = status(404, {"error": "model 'llama9' not found"})
DETAILS = {"parent_model": "", "format": "gguf", "parameter_size": "7.6B"}
TAGS = {
    "models": [
        {"name": "nomic-embed-text:latest", "model": "nomic-embed-text:latest",
         "details": {**DETAILS, "family": "nomic-bert"}},
        {"name": "deepseek-r1:7b", "model": "deepseek-r1:7b",
         "details": {**DETAILS, "family": "qwen2"}},
        {"name": "llama3.2:latest", "model": "llama3.2:latest",
         "details": {**DETAILS, "family": "llama"}},
    ]
}  # fmt: skip


@pytest.fixture
async def server() -> AsyncIterator[Loopback]:
    async with Loopback() as server:
        yield server


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    transport = Transport.of_server()
    yield transport
    await transport.aclose()


@pytest.fixture
def forwarder(server: Loopback, transport: Transport) -> Ollama:
    return Ollama(base_url=server.url, transport=transport)


async def replied(forwarder: Ollama, call: Call) -> Reply:
    return await ask(upstream=forwarder, call=call, brought=(Transform(to="ollama"),))


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/", "/ollama/v1"])
def test_the_address_may_end_as_people_write_it(suffix: str) -> None:
    made = Ollama(base_url=f"http://127.0.0.1:11434{suffix}")

    assert made.base_url == f"http://127.0.0.1:11434{'/ollama' if 'ollama' in suffix else ''}"


def test_an_address_without_a_scheme_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="http://"):
        Ollama(base_url="localhost:11434")


def test_it_brings_its_dialect_and_the_patience_that_loading_a_model_takes() -> None:
    assert Ollama.brings == ({"transform": {"to": "ollama"}},)
    assert Ollama.timeouts == {"first_event": "300s", "idle": "300s"}


async def test_a_chat_is_asked_at_api_chat_with_the_servers_own_key(
    server: Loopback, transport: Transport
) -> None:
    server.script(WHOLE)
    forwarder = Ollama(
        base_url=f"{server.url}/v1",
        api_key=Secret("sk-own"),
        headers={"X-Team": "red"},
        transport=transport,
    )

    answer = await raw(
        await replied(forwarder, call(headers={"authorization": "Bearer sk-client", "cookie": "a"}))
    )

    [asked] = server.requests
    assert (asked.method, asked.target) == ("POST", "/api/chat")
    assert asked.header("authorization") == "Bearer sk-own"
    assert asked.header("x-team") == "red"
    assert asked.header("cookie") is None
    assert json.loads(asked.body)["stream"] is False
    assert json.loads(answer)["choices"][0]["message"]["content"] == "The sky"


async def test_without_the_change_of_dialect_it_is_asked_at_v1(
    server: Loopback, forwarder: Ollama
) -> None:
    server.script(answers({"choices": [{"message": {"content": "hi"}}]}))

    await raw(await ask(upstream=forwarder, call=call()))

    assert server.requests[0].target == "/v1/chat/completions"


async def test_the_reply_is_there_with_its_first_words(server: Loopback, forwarder: Ollama) -> None:
    server.script((NDJSON, chunk(line("The")), Act.STALL))

    reply = await replied(forwarder, call(stream=True))

    assert OPENAI.text(await anext(reply.events)) == "The"
    await reply.aclose()
    await server.closed(within=1)


async def test_a_connection_is_used_again_after_a_stream(
    server: Loopback, forwarder: Ollama
) -> None:
    server.script((NDJSON, *map(chunk, LINES), Pause(0.01), LAST_CHUNK), SKY)

    for _ in range(2):
        assert b"[DONE]" in await raw(await replied(forwarder, call(stream=True)))

    assert len(server.connections) == 1


async def test_a_model_that_is_missing_is_named_and_may_be_elsewhere(
    server: Loopback, forwarder: Ollama
) -> None:
    server.script(MISSING)

    with pytest.raises(UpstreamError, match="'llama9' not found") as failed:
        await replied(forwarder, call())

    error = failed.value
    assert (error.status, error.code, error.type) == (
        404,
        "model_not_found",
        "invalid_request_error",
    )
    assert (error.again, error.elsewhere) == (False, True)


@pytest.mark.parametrize(
    ("said", "told", "again"),
    [
        (status(400, {"error": "registry.ollama.ai/x does not support tools"}), 400, False),
        (status(401, {"error": "unauthorized", "signin_url": "https://x"}), 502, False),
        (status(500, {"error": "llama runner process has terminated"}), 502, True),
        (status(503, {"error": "server busy, please try again."}), 503, True),
        ((NDJSON, chunk(line("")), Act.RESET), 502, True),
        (answers({"error": "odd"}), 502, True),
    ],
)
async def test_a_refusal_is_told_as_what_it_is(
    server: Loopback, forwarder: Ollama, said: tuple[Step, ...], told: int, again: bool
) -> None:
    server.script(said)

    with pytest.raises(UpstreamError) as failed:
        await replied(forwarder, call(stream=True))

    assert (failed.value.status, failed.value.again) == (told, again)


async def test_it_lists_its_models_by_their_names(server: Loopback, forwarder: Ollama) -> None:
    server.script(answers(TAGS), answers({"models": None}), answers([]), MISSING)

    names = ["nomic-embed-text:latest", "deepseek-r1:7b", "llama3.2:latest"]
    assert await forwarder.models() == names
    assert await forwarder.models() == []
    assert server.requests[0].target == "/api/tags"
    for _ in range(2):
        with pytest.raises(UpstreamError):
            await forwarder.models()


# Found on this machine


@pytest.mark.parametrize("variable", ["OLLAMA_HOST", "OLLAMA_BASE_URL"])
async def test_a_server_is_found_with_what_its_models_can_be_called(
    server: Loopback, variable: str
) -> None:
    server.script(answers(TAGS))

    [found] = await Ollama.find({variable: server.url.removeprefix("http://")})

    assert found == Found(
        name="ollama",
        says=f"Ollama answers at {server.url}",
        options={"base_url": server.url},
        models=(
            *("deepseek-r1:7b", "llama3.2:latest", "llama3.2"),
            *("nomic-embed-text:latest", "nomic-embed-text"),  # it cannot stand in for a chat
        ),
    )


async def test_a_key_is_used_to_look_and_not_written_down(server: Loopback) -> None:
    server.script(answers(TAGS))

    [found] = await Ollama.find({"OLLAMA_HOST": server.url, "OLLAMA_API_KEY": "sk-own"})

    assert server.requests[0].header("authorization") == "Bearer sk-own"
    assert found.options["api_key"] == "${OLLAMA_API_KEY}"


@pytest.mark.parametrize("said", [answers({"what": 1}), status(404, b"no"), (Act.STALL,)])
async def test_who_is_no_ollama_is_not_found(server: Loopback, said: tuple[Step, ...]) -> None:
    server.script(said)

    assert await Ollama.find({"OLLAMA_HOST": server.url}) == []


@pytest.mark.parametrize("written", ["127.0.0.1:1", "http://127.0.0.1:99999", "ftp://x", "["])
async def test_where_nobody_is_nothing_is_found(written: str) -> None:
    assert await Ollama.find({"OLLAMA_HOST": written}) == []


# With the official clients

CONFIGURED = """
    upstreams: {{here: {{forwarder: {{ollama: {{base_url: "{url}"}}}}}}}}
    routes: {{"*": here, "/api/*": here}}
    """


async def test_openais_client_talks_to_an_ollama_server(server: Loopback) -> None:
    vectors = {"model": "llama3.2", "embeddings": [[0.5, -0.25]], "prompt_eval_count": 3}
    server.script(SKY, WHOLE, answers(vectors), MISSING)
    running = gateway(CONFIGURED.format(url=server.url))

    async with running.lifespan(), running.client() as http:
        client = openai.AsyncOpenAI(
            api_key="any", base_url="http://headrace/v1", http_client=http, max_retries=0
        )
        asked: Any = {"model": "llama3.2", "messages": [{"role": "user", "content": "why?"}]}

        words = [c async for c in await client.chat.completions.create(**asked, stream=True)]
        whole = await client.chat.completions.with_raw_response.create(**asked, user="ann")
        vector = await client.embeddings.create(model="llama3.2", input="why?")
        with pytest.raises(openai.NotFoundError) as missing:
            await client.chat.completions.create(**asked)

    assert "".join(c.choices[0].delta.content or "" for c in words) == "The sky"
    assert words[-1].choices[0].finish_reason == "stop"
    assert whole.headers["x-headrace-dropped"] == "user"
    assert whole.parse().choices[0].message.content == "The sky"
    assert vector.data[0].embedding == [0.5, -0.25]
    assert missing.value.code == "model_not_found"
    assert [asked.target for asked in server.requests] == [
        "/api/chat", "/api/chat", "/api/embed", "/api/chat",
    ]  # fmt: skip


async def test_ollamas_own_client_is_passed_through(server: Loopback) -> None:
    server.script(SKY, answers(TAGS), MISSING)
    running = gateway(CONFIGURED.format(url=server.url))

    async with running.lifespan():
        client = ollama.AsyncClient(host="http://localhost", transport=httpx.ASGITransport(running))
        said = [ollama.Message(role="user", content="why?")]

        words = [part async for part in await client.chat("llama3.2", said, stream=True)]
        listed = await client.list()
        with pytest.raises(ollama.ResponseError) as missing:
            await client.chat("llama9", said)
        await client._client.aclose()

    assert "".join(part.message.content or "" for part in words) == "The sky"
    assert words[-1].done
    assert [model.model for model in listed.models][1] == "deepseek-r1:7b"
    assert (missing.value.status_code, missing.value.error) == (404, "model 'llama9' not found")


async def test_what_is_passed_through_stays_as_it_came(server: Loopback, forwarder: Ollama) -> None:
    server.script(SKY)
    passed = call(PASSTHROUGH, body=b'{"model":  "llama3.2"}').replace(path="/api/generate")

    told = await raw(await replied(forwarder, passed))

    assert told == b"".join(LINES)
    assert server.requests[0].target == "/api/generate"
    assert server.requests[0].body == passed.body
