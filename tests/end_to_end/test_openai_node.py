"""OpenAI's own client for Node, told nothing but a base URL.

`tests/node/ask.mjs` asks and prints what it was told; here is what the upstream does, by the name
of the model, and what must have been told.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import struct
import subprocess
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from headrace.testing import Loopback
from headrace.testing.misbehaviour import (
    COMPLETION,
    EVENTS,
    Act,
    Received,
    Steps,
    answers,
    delta,
    status,
    streams,
)

from .serving import Served, serving

HERE = Path(__file__).parents[1] / "node"
CACHE = Path(__file__).parents[2] / ".cache" / "node"
KEY = "sk-anns"
CONFIG = """
    server: {chain: [api_key: {keys: {KEY_SHA256: ann}}]}
    upstreams:
      here:
        forwarder: {openai: {base_url: "${UPSTREAM}/v1", api_key: sk-of-the-gateway}}
        models: [text, acme/llama-3/8b]
      patient:
        forwarder: {openai: {base_url: "${UPSTREAM}/v1"}}
        models: [patient]
        plugins: [retry: {attempts: 3, wait: 10ms}]
    routes: {acme/llama-3/8b: here, patient: patient, "*": here}
    """
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
CALLS = (
    {"index": 0, "id": "call_a", "type": "function", "function": {"name": "f", "arguments": ""}},
    {"index": 0, "function": {"arguments": '{"a":'}},
    {"index": 1, "id": "call_b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    {"index": 0, "function": {"arguments": ' "ü"}'}},
)


class Upstream:
    """Does what the model's name says."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Received]] = []

    def __call__(self, received: Received) -> Steps:
        body = json.loads(received.body)
        model: str = body["model"]
        before = sum(name == model for name, _ in self.asked)
        self.asked.append((model, received))
        match model.partition("-"):
            case "text", _, _ if body.get("stream"):
                wanted = (body.get("stream_options") or {}).get("include_usage")
                told = [{**delta(), "choices": [], "usage": USAGE}] if wanted else []
                return streams(*EVENTS, *told)
            case "tools", _, _:
                parts = [delta(tool_calls=[call]) for call in CALLS]
                return streams(EVENTS[0], *parts, delta("tool_calls"))
            case "schema", _, _:
                message = {"role": "assistant", "content": '{"n": 7}'}
                return answers({**COMPLETION, "choices": [{"index": 0, "message": message}]})
            case "vectors", _, _:
                vector: Any = [0.5, -0.25]
                if body.get("encoding_format") == "base64":
                    vector = base64.b64encode(struct.pack("<2f", *vector)).decode()
                data = [{"object": "embedding", "index": 0, "embedding": vector}]
                return answers({"object": "list", "model": model, "data": data, "usage": USAGE})
            case "old", _, _ if body.get("stream"):
                return streams(completion("Hello"), completion(" world", "stop"))
            case "old", _, _:
                return answers(completion("Hello world", "stop"))
            case "status", _, code:
                return status(int(code), {"error": {"message": "told", "code": "flux"}})
            case "cut", _, _:
                return (*streams(*EVENTS[:2])[:-2], Act.CLOSE)
            case "second", _, _ if before == 0:
                return status(503, {"error": {"message": "busy"}}, "retry-after-ms: 10")
            case "patient", _, _:
                return status(503, {"error": {"message": "busy"}})
            case "never", _, _:
                return (Act.STALL,)
            case "stalls", _, _:
                return (*streams(*EVENTS[:2])[:-2], Act.STALL)
        return answers(COMPLETION)

    def asked_for(self, model: str) -> list[Received]:
        """The requests for this model."""
        return [received for name, received in self.asked if name == model]


def completion(text: str, finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "text": text, "finish_reason": finish, "logprobs": None}
    told = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "old"}
    return {**told, "choices": [choice]}


@pytest.fixture(scope="module")
def script(server: Loopback) -> Upstream:
    script = Upstream()
    server.script(script)
    return script


@pytest.fixture(scope="module")
async def gateway(server: Loopback, script: Upstream) -> AsyncIterator[Served]:
    text = CONFIG.replace("KEY_SHA256", sha256(KEY.encode()).hexdigest())
    async with serving(text, UPSTREAM=server.url) as served:
        yield served


@pytest.fixture(scope="session")
def client() -> Path:
    """The script beside the packages it needs, which are fetched once."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    CACHE.mkdir(parents=True, exist_ok=True)
    fetched = CACHE / "fetched.json"
    lock = (HERE / "package-lock.json").read_text()
    if not fetched.exists() or fetched.read_text() != lock:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, CACHE / name)
        install = ["npm", "ci", "--no-audit", "--no-fund"]
        npm = subprocess.run(install, cwd=CACHE, capture_output=True, text=True, check=False)
        if npm.returncode:
            pytest.skip(f"the packages for Node cannot be had: {npm.stderr.strip()[-300:]}")
        fetched.write_text(lock)
    shutil.copy(HERE / "ask.mjs", CACHE / "ask.mjs")
    return CACHE / "ask.mjs"


@pytest.fixture(scope="module")
async def told(gateway: Served, client: Path) -> dict[str, Any]:
    """What the client was told, by the names of what it did."""
    node = await started(gateway, client)
    async with asyncio.timeout(60):
        out, failed = await node.communicate()
    assert node.returncode == 0, failed.decode()
    told: dict[str, Any] = json.loads(out)
    return told


async def started(gateway: Served, client: Path, *arguments: str) -> asyncio.subprocess.Process:
    environ = {**os.environ, "BASE_URL": f"{gateway.url}/v1", "API_KEY": KEY}
    return await asyncio.create_subprocess_exec(
        *("node", str(client), *arguments),
        stdin=PIPE, stdout=PIPE, stderr=PIPE, env=environ, limit=2**20,
    )  # fmt: skip


def words(parts: list[Any]) -> str:
    return "".join(p["choices"][0]["delta"].get("content") or "" for p in parts if p["choices"])


async def test_text_comes_whole_and_in_parts(told: dict[str, Any]) -> None:
    assert told["text"]["data"]["choices"][0]["message"]["content"] == "Hello world"
    assert words(told["stream"]) == "Hello world"


async def test_what_happened_is_in_the_headers(told: dict[str, Any]) -> None:
    headers = told["text"]["headers"]

    assert headers["x-request-id"].startswith("req_")
    assert (headers["x-headrace-upstream"], headers["x-headrace-attempts"]) == ("here", "1")


async def test_a_stream_tells_its_usage_to_who_asks_alone(told: dict[str, Any]) -> None:
    assert told["usage"][-1]["usage"] == USAGE
    assert all(part["choices"] for part in told["stream"])


async def test_parallel_tool_calls_are_put_together(told: dict[str, Any]) -> None:
    (choice,) = told["tools"]["choices"]

    assert choice["finish_reason"] == "tool_calls"
    assert [
        (call["id"], call["function"]["name"], json.loads(call["function"]["arguments"]))
        for call in choice["message"]["tool_calls"]
    ] == [("call_a", "f", {"a": "ü"}), ("call_b", "g", {})]


async def test_an_answer_keeps_to_its_schema(told: dict[str, Any], script: Upstream) -> None:
    assert told["schema"] == {"n": 7}
    (asked,) = script.asked_for("schema")
    assert json.loads(asked.body)["response_format"]["json_schema"]["strict"] is True


async def test_an_image_and_what_nobody_knows_pass_untouched(
    told: dict[str, Any], script: Upstream
) -> None:
    (asked,) = script.asked_for("echo")

    body = json.loads(asked.body)
    url = "data:image/png;base64,iVBORw0KGgo="
    assert body["messages"][0]["content"][1]["image_url"] == {"url": url}
    assert body["x_unknown"] == {"a": 1}


async def test_embeddings_come_as_base64_and_as_numbers(
    told: dict[str, Any], script: Upstream
) -> None:
    assert told["embeddings"][0]["embedding"] == [0.5, -0.25]
    assert told["floats"][0]["embedding"] == [0.5, -0.25]
    formats = [json.loads(asked.body)["encoding_format"] for asked in script.asked_for("vectors")]
    assert formats == ["base64", "float"]


async def test_the_old_completions_are_answered(told: dict[str, Any]) -> None:
    assert told["completions"] == ["Hello world", ["Hello", " world"]]


async def test_models_have_ids_with_slashes(told: dict[str, Any]) -> None:
    assert "acme/llama-3/8b" in told["models"]["listed"]
    assert told["models"]["found"] == "acme/llama-3/8b"


@pytest.mark.parametrize(
    ("said", "raised", "shown"),
    [
        ("400", "BadRequestError", 400),
        ("401", "InternalServerError", 502),
        ("404", "NotFoundError", 404),
        ("409", "ConflictError", 409),
        ("422", "UnprocessableEntityError", 422),
        ("429", "RateLimitError", 429),
        ("500", "InternalServerError", 502),
        ("503", "InternalServerError", 503),
    ],
)
async def test_a_refusal_is_raised_as_its_class(
    told: dict[str, Any], said: str, raised: str, shown: int
) -> None:
    error = told["errors"][said]

    assert (error["class"], error["status"]) == (raised, shown)
    assert error["code"] == ("upstream_credentials" if said == "401" else "flux")
    assert error["requestID"].startswith("req_")


async def test_a_wrong_key_is_not_let_in(told: dict[str, Any]) -> None:
    error = told["wrongKey"]

    assert (error["class"], error["code"]) == ("AuthenticationError", "invalid_api_key")


async def test_a_failure_in_mid_stream_is_raised_after_the_words_before_it(
    told: dict[str, Any],
) -> None:
    assert told["cut"]["said"] == ["", "Hello"]
    failed = told["cut"]["failed"]
    assert (failed["class"], failed["code"]) == ("APIError", "upstream_truncated")


async def test_it_tries_again_as_the_upstream_asks(told: dict[str, Any], script: Upstream) -> None:
    assert told["retried"] == "chatcmpl-1"
    assert len(script.asked_for("second-time")) == 2


async def test_it_does_not_repeat_what_was_repeated_here(
    told: dict[str, Any], script: Upstream
) -> None:
    assert told["notRepeated"]["status"] == 503
    assert len(script.asked_for("patient")) == 3


async def test_giving_up_closes_the_upstream(
    told: dict[str, Any], script: Upstream, server: Loopback
) -> None:
    assert told["timeout"]["class"] == "APIConnectionTimeoutError"
    (asked,) = script.asked_for("never")
    await server.closed(asked.connection)


async def test_a_stream_that_is_left_closes_the_upstream(
    gateway: Served, client: Path, script: Upstream, server: Loopback
) -> None:
    node = await started(gateway, client, "leaves")
    assert node.stdin and node.stdout
    async with asyncio.timeout(20):
        assert await node.stdout.readline() == b"left\n"

    await server.closed(script.asked_for("stalls")[0].connection, within=1)

    assert node.returncode is None
    node.stdin.close()
    assert await node.wait() == 0
