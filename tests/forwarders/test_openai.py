"""`openai`: whoever speaks OpenAI's API is asked at the right path, with its own key."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from headrace import PASSTHROUGH, Call, Secret, Transport, UpstreamError
from headrace.testing import Loopback, ask, call, raw, text
from headrace.testing.misbehaviour import COMPLETION, EVENTS, Received, answers, status, streams
from headrace_plugins.forwarders.openai import OpenAI


@pytest.fixture
async def server() -> AsyncIterator[Loopback]:
    async with Loopback() as server:
        server.script(answers(COMPLETION))
        yield server


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    transport = Transport.of_server()
    yield transport
    await transport.aclose()


@pytest.fixture
def openai(server: Loopback, transport: Transport) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key=Secret("sk-own"), transport=transport)


async def received(openai: OpenAI, server: Loopback, call: Call) -> Received:
    await raw(await ask(upstream=openai, call=call))
    return server.requests[-1]


async def test_a_whole_answer(openai: OpenAI) -> None:
    assert await text(await ask(upstream=openai, call=call())) == "Hello world"


async def test_a_stream_leaves_as_it_came(openai: OpenAI, server: Loopback) -> None:
    odd = (
        b": ping\r\n\r\nid: 7\r\ndata: " + json.dumps(EVENTS[1], indent=None).encode() + b"\r\n\r\n"
    )
    server.script(streams(odd, *EVENTS[2:]))

    seen = await raw(await ask(upstream=openai, call=call(stream=True)))

    assert odd.partition(b"\r\n\r\n")[2] in seen
    assert seen.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("base", ["/v1", "/v1/", "", "/", "/openai/deployments/x"])
async def test_operations_are_asked_below_the_base_url(
    server: Loopback, transport: Transport, base: str
) -> None:
    openai = OpenAI(base_url=server.url + base, transport=transport)

    for operation in ("chat", "completion"):
        await received(openai, server, call(operation))

    prefix = base.rstrip("/")
    assert [request.target for request in server.requests] == [
        f"{prefix}/chat/completions",
        f"{prefix}/completions",
    ]


@pytest.mark.parametrize(
    ("path", "query", "target"),
    [
        ("/v1/files", "", "/v1/files"),
        ("/v1/files/a b/é", "limit=2&after=%2F", "/v1/files/a%20b/%C3%A9?limit=2&after=%2F"),
        ("/v1/audio/speech?", "", "/v1/audio/speech%3F"),
        ("/files", "", "/v1/files"),
        ("/v1/../admin", "", "/v1/../admin"),
    ],
)
async def test_what_is_passed_through_keeps_its_path_below_the_base_url(
    openai: OpenAI, server: Loopback, path: str, query: str, target: str
) -> None:
    passed = call(PASSTHROUGH).replace(path=path, query=query, method="GET", body=b"")

    asked = await received(openai, server, passed)

    assert (asked.method, asked.target, asked.body) == ("GET", target, b"")


async def test_the_query_of_an_operation_stays_here(openai: OpenAI, server: Loopback) -> None:
    asked = await received(openai, server, call().replace(query="api_key=sk-client"))

    assert asked.target == "/v1/chat/completions"


async def test_the_servers_own_key_and_headers_take_the_place_of_the_clients(
    server: Loopback, transport: Transport
) -> None:
    openai = OpenAI(
        base_url=server.url,
        api_key=Secret("sk-own"),
        headers={"OpenAI-Organization": "org-own", "X-Team": "red"},
        transport=transport,
    )
    headers = {"authorization": "Bearer sk-client", "openai-organization": "org-client"}

    asked = await received(openai, server, call(headers={**headers, "user-agent": "curl/8"}))

    lines = [line for line in asked.headers if line[0].lower() == "openai-organization"]
    assert [value for _, value in lines] == ["org-own"]
    assert asked.header("authorization") == "Bearer sk-own"
    assert asked.header("x-team") == "red"
    assert str(asked.header("user-agent")).startswith("headrace/")
    assert str(asked.header("user-agent")).endswith(" curl/8")


async def test_without_a_key_none_is_sent(server: Loopback, transport: Transport) -> None:
    openai = OpenAI(base_url=server.url, transport=transport)

    asked = await received(openai, server, call(headers={"authorization": "Bearer sk-client"}))

    assert asked.header("authorization") is None


@pytest.mark.parametrize(
    "url", ["api.openai.com/v1", "", "ftp://127.0.0.1", "http://h:99999", "http://h:p"]
)
def test_an_address_that_is_none_is_a_mistake(url: str) -> None:
    with pytest.raises(ValueError, match="base_url must be http:// or https://"):
        OpenAI(base_url=url)


async def test_its_models_are_those_the_server_lists(openai: OpenAI, server: Loopback) -> None:
    server.script(answers({"object": "list", "data": [{"id": "gpt-4o"}, {"id": "o3"}]}))

    assert await openai.models() == ["gpt-4o", "o3"]

    assert (server.requests[0].method, server.requests[0].target) == ("GET", "/v1/models")
    assert server.requests[0].header("authorization") == "Bearer sk-own"


@pytest.mark.parametrize(
    "listed", [None, [], {}, {"data": None}, {"data": [1]}, {"data": [{"name": "gpt"}]}]
)
async def test_a_list_of_models_that_is_none(openai: OpenAI, server: Loopback, listed: Any) -> None:
    server.script(answers(listed))

    with pytest.raises(UpstreamError) as caught:
        await openai.models()

    assert caught.value.code == "upstream_invalid"


async def test_a_server_that_lists_no_models(openai: OpenAI, server: Loopback) -> None:
    server.script(status(404, {"detail": "Not Found"}))

    with pytest.raises(UpstreamError):
        await openai.models()


async def test_it_finds_the_services_whose_keys_are_there() -> None:
    environ = {"GROQ_API_KEY": "gsk", "OPENAI_API_KEY": "sk", "MISTRAL_API_KEY": "", "HOME": "/"}

    found = await OpenAI.find(environ)

    assert [(one.name, one.says) for one in found] == [
        ("openai", "OPENAI_API_KEY is set"),
        ("groq", "GROQ_API_KEY is set"),
    ]
    assert found[0].options == {
        "base_url": "https://api.openai.com/v1",
        "api_key": "${OPENAI_API_KEY}",
    }
    assert found[0].rank < found[1].rank
    assert "sk" not in str(found[0].options.values())


def test_an_address_holds_no_secret() -> None:
    with pytest.raises(ValueError, match="a key belongs in api_key") as raised:
        OpenAI(base_url="https://ann:canary@127.0.0.1/v1")

    assert "canary" not in str(raised.value)


def test_a_key_of_two_lines_is_found_before_it_is_sent() -> None:
    with pytest.raises(ValueError, match="characters that no header can have") as raised:
        OpenAI(api_key=Secret("canary\nline"))

    assert "canary" not in str(raised.value)


async def test_openai_may_be_somewhere_else() -> None:
    environ = {"OPENAI_API_KEY": "sk", "OPENAI_BASE_URL": "http://127.0.0.1:8000/v1"}

    [found] = await OpenAI.find(environ)

    assert found.options["base_url"] == "${OPENAI_BASE_URL}"


@pytest.mark.parametrize(
    ("base_url", "provider"),
    [
        ("https://api.openai.com/v1", "openai"),
        ("https://api.groq.com/openai/v1", "groq"),
        ("https://api.x.ai/v1", "x_ai"),
        ("https://vortex.ai/v1", "openai"),
        ("https://here.openai.azure.com/openai/v1", "azure.ai.openai"),
        ("http://127.0.0.1:8000/v1", "openai"),
    ],
)
def test_the_service_that_is_asked_is_known_by_its_host(base_url: str, provider: str) -> None:
    assert OpenAI(base_url=base_url).provider == provider
