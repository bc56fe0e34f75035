"""Pings on a real socket: OpenAI's client does not notice them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI

from headrace.testing import Loopback
from headrace.testing.misbehaviour import EVENTS, Pause, Received, Steps, status, streams

from .serving import Served, chat, serving

CONFIG = """
    server: {auth: none, pings: 50ms, early_pings: 100ms}
    upstreams: {here: {forwarder: {openai: {base_url: "${UPSTREAM}/v1"}}, models: [m]}}
    routes: {m: here}
    """
HI: Any = [{"role": "user", "content": "hi"}]


@pytest.fixture
async def gateway(server: Loopback) -> AsyncIterator[Served]:
    async with serving(CONFIG, UPSTREAM=server.url) as served:
        yield served


def slowly(received: Received) -> Steps:
    """Silence, a word, silence, and the rest."""
    head, role, hello, *rest = streams(*EVENTS)
    yield from (Pause(0.3), head, role, hello, Pause(0.3), *rest)


async def test_the_client_reads_the_stream_and_no_ping(gateway: Served, upstream: Loopback) -> None:
    upstream.script(slowly)
    async with AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client:
        stream = await client.chat.completions.create(model="m", messages=HI, stream=True)
        words = [part.choices[0].delta.content or "" async for part in stream if part.choices]

    assert "".join(words) == "Hello world"


async def test_a_proxy_sees_that_it_goes_on(gateway: Served, upstream: Loopback) -> None:
    upstream.script(slowly)
    async with httpx2.AsyncClient(base_url=gateway.url) as client:
        answer = await client.post("/v1/chat/completions", json=chat(stream=True))

    before, _, after = answer.text.partition('"Hello"')
    assert before.startswith(": ping\n\n")
    assert ": ping\n\n" in after
    assert after.endswith("data: [DONE]\n\n")


async def test_a_failure_after_that_is_raised_as_one(gateway: Served, upstream: Loopback) -> None:
    def fails(received: Received) -> Steps:
        yield from (Pause(0.3), *status(429, {"error": {"message": "slow down"}}))

    upstream.script(fails)
    async with AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client:
        stream = await client.chat.completions.create(model="m", messages=HI, stream=True)
        with pytest.raises(openai.APIError, match="slow down") as failed:
            await anext(stream)

    assert failed.value.code == "upstream_429"
    await gateway.until(lambda: bool(gateway.rows))
    [row] = gateway.rows
    assert (row["status"], row["outcome"], row["code"]) == (200, "failed", "upstream_429")
