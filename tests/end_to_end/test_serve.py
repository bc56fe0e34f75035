"""The command itself: live, drained, stopped; and the same application under uvicorn's command."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI

from headrace.testing import Loopback
from headrace.testing.misbehaviour import (
    COMPLETION,
    DONE,
    EVENTS,
    LAST_CHUNK,
    Act,
    answers,
    chunk,
    event,
    streams,
)

from .serving import Served, Wire, chat, post, printing, serving, wire

CONFIG = """
    server: {drain: DRAIN, shutdown_delay: DELAY}
    upstreams: {here: {forwarder: {openai: {base_url: "${UPSTREAM}/v1"}}, models: [m]}}
    routes: {m: here}
    """
PATH = "/v1/chat/completions"
HI: Any = [{"role": "user", "content": "hi"}]
HALF = streams(*EVENTS[:2], done=False)[:-1]


def config(*, drain: str = "5s", delay: str = "0s") -> str:
    return CONFIG.replace("DRAIN", drain).replace("DELAY", delay)


async def let_go(upstream: Loopback, *rest: bytes) -> None:
    """Send the rest of the answer on every connection that waits for it."""
    for asked in upstream.requests:
        connection = upstream.connections[asked.connection]
        for step in rest:
            await connection.play(step)


REST = (*(chunk(event(each)) for each in EVENTS[2:]), chunk(DONE), LAST_CHUNK)


@asynccontextmanager
async def streaming(gateway: Served, count: int) -> AsyncIterator[list[Wire]]:
    """Clients in the middle of their streams."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(wire(gateway.url)) for _ in range(count)]
        for client in clients:
            await client.send(post(PATH, chat(stream=True)))
        for client in clients:
            await client.until(b"Hello")
        yield clients


async def test_streams_finish_after_a_signal_to_stop(upstream: Loopback) -> None:
    upstream.script((*HALF, Act.STALL))

    async with (
        serving(config(drain="20s"), UPSTREAM=upstream.url) as gateway,
        streaming(gateway, 50) as clients,
    ):
        gateway.stop()
        await refused(gateway.url)
        await let_go(upstream, *REST)
        told = [await client.rest() for client in clients]

        assert await gateway.ended() == 0

    assert all(each.rstrip().endswith(b"data: [DONE]\n\n\r\n0") for each in told)
    assert [row["outcome"] for row in gateway.rows] == ["ok"] * 50


async def refused(url: str) -> None:
    """Wait until nobody takes connections there any more."""
    async with asyncio.timeout(5):
        while True:
            try:
                async with wire(url):
                    await asyncio.sleep(0.01)
            except ConnectionError:
                return


async def test_plain_calls_finish_after_a_signal_to_stop(upstream: Loopback) -> None:
    head, *_ = answers(COMPLETION)
    assert isinstance(head, bytes)
    upstream.script((head[:-20], Act.STALL))

    async with (
        serving(config(), UPSTREAM=upstream.url) as gateway,
        httpx2.AsyncClient(base_url=gateway.url) as http,
    ):
        asking = [asyncio.create_task(http.post(PATH, json=chat())) for _ in range(20)]
        await upstream.asked(20)
        gateway.stop()
        await refused(gateway.url)
        await let_go(upstream, head[-20:])

        assert {(await each).status_code for each in asking} == {200}
        assert await gateway.ended() == 0


async def test_what_goes_on_beyond_the_limit_is_cut_and_told_why(upstream: Loopback) -> None:
    upstream.script((*HALF, Act.STALL))

    async with (
        serving(config(drain="300ms"), UPSTREAM=upstream.url) as gateway,
        streaming(gateway, 10) as clients,
    ):
        gateway.stop()
        told = [await client.rest() for client in clients]

        assert await gateway.ended(within=3) == 0

    for each in told:
        assert b'"code":"shutting_down"' in each
        assert b"[DONE]" not in each
        assert each.endswith(b"0\r\n\r\n")
    rows = [(row["outcome"], row["code"]) for row in gateway.rows]
    assert rows == [("incomplete", "shutting_down")] * 10
    for asked in upstream.requests:
        await upstream.closed(asked.connection)


async def test_openais_client_is_told_that_it_was_cut(upstream: Loopback) -> None:
    upstream.script((*HALF, Act.STALL))

    async with (
        serving(config(drain="200ms"), UPSTREAM=upstream.url) as gateway,
        AsyncOpenAI(base_url=gateway.url, api_key="any", max_retries=0) as client,
    ):
        stream = await client.chat.completions.create(model="m", messages=HI, stream=True)
        await anext(stream)
        gateway.stop()
        with pytest.raises(openai.APIError) as cut:
            [part async for part in stream]

    assert (cut.value.code, cut.value.type) == ("shutting_down", "overloaded_error")


async def test_a_plain_call_that_is_cut_is_a_503(upstream: Loopback) -> None:
    upstream.script("never")

    async with (
        serving(config(drain="200ms"), UPSTREAM=upstream.url) as gateway,
        httpx2.AsyncClient(base_url=gateway.url) as http,
    ):
        asking = asyncio.create_task(http.post(PATH, json=chat()))
        await upstream.asked()
        gateway.stop()
        told = await asking

    assert told.status_code == 503
    assert told.json()["error"]["code"] == "shutting_down"
    assert gateway.rows[0]["outcome"] == "failed"


async def test_it_is_not_ready_at_once_and_answers_until_the_delay_is_over(
    upstream: Loopback,
) -> None:
    upstream.script(answers(COMPLETION))

    async with (
        serving(config(delay="1s"), UPSTREAM=upstream.url) as gateway,
        httpx2.AsyncClient(base_url=gateway.url) as http,
    ):
        assert (await http.get("/readyz")).status_code == 200
        gateway.stop()
        async with asyncio.timeout(0.5):
            while (await http.get("/readyz")).status_code != 503:
                pass

        assert (await http.get("/healthz")).status_code == 200
        assert (await http.post(PATH, json=chat())).status_code == 200
        assert await gateway.ended(within=3) == 0


async def test_a_request_that_is_not_whole_does_not_hold_up_the_end(upstream: Loopback) -> None:
    async with (
        serving(config(drain="200ms"), UPSTREAM=upstream.url) as gateway,
        wire(gateway.url) as client,
    ):
        await client.send(post(PATH, chat())[:-5])
        async with httpx2.AsyncClient(base_url=gateway.url) as http:
            await http.get("/healthz")  # what was sent before this has been read
        gateway.stop()
        told = await client.rest()

        assert await gateway.ended(within=3) == 0

    assert b'"code":"shutting_down"' in told
    assert [row["code"] for row in gateway.rows] == ["shutting_down"]


@pytest.mark.parametrize("again", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_does_not_wait(upstream: Loopback, again: signal.Signals) -> None:
    upstream.script((*HALF, Act.STALL))

    async with (
        serving(config(drain="60s"), UPSTREAM=upstream.url) as gateway,
        streaming(gateway, 1) as (client,),
    ):
        gateway.stop()
        await refused(gateway.url)
        gateway.process.send_signal(again)

        assert b"shutting_down" in await client.rest()
        assert await gateway.ended(within=3) == 0

    assert gateway.rows[0]["outcome"] == "incomplete"


async def test_an_idle_gateway_stops_at_once(upstream: Loopback) -> None:
    async with (
        serving(config(drain="60s"), UPSTREAM=upstream.url) as gateway,
        httpx2.AsyncClient(base_url=gateway.url) as http,
    ):
        await http.get("/healthz")  # and its connection is kept
        gateway.stop()

        assert await gateway.ended(within=2) == 0


async def test_every_request_has_its_line_and_no_line_has_a_secret(upstream: Loopback) -> None:
    text = """
        upstreams:
          here: {forwarder: {openai: {base_url: "${UPSTREAM}/v1", api_key: "${KEY}"}}, models: [m]}
        routes: {m: here}
        """
    upstream.script(answers(COMPLETION))
    secret = "sk-canary-of-the-gateway"

    async with serving(text, UPSTREAM=upstream.url, KEY=secret, LOG_LEVEL="debug") as gateway:
        async with httpx2.AsyncClient(base_url=gateway.url) as http:
            headers = {"authorization": "Bearer sk-canary-of-the-client", "cookie": "a=sk-canary"}
            members: Any = chat(note="sk-canary in the prompt")
            ids = [
                (await http.post(path, json=members, headers=headers)).headers["x-request-id"]
                for path in (PATH, "/v1/nothing", f"{PATH}?key=sk-canary")
            ]
        for one in ids:
            await gateway.row(one)

    assert len(gateway.rows) == 3
    assert "sk-canary" not in json.dumps(gateway.rows) + "\n".join(gateway.said)


BY_PROXY = """
    server:
      middleware:
        - uvicorn.middleware.proxy_headers:ProxyHeadersMiddleware: {trusted_hosts: [127.0.0.1]}
    upstreams: {a: mock}
    """


@pytest.mark.parametrize(
    ("text", "client"), [("upstreams: {a: mock}", "127.0.0.1"), (BY_PROXY, "203.0.113.7")]
)
async def test_another_address_is_believed_of_proxies_that_are_named(
    text: str, client: str
) -> None:
    async with serving(text) as gateway, httpx2.AsyncClient() as http:
        headers = {"x-forwarded-for": "203.0.113.7"}
        asked = await http.get(f"{gateway.url}/v1/models", headers=headers)
        row = await gateway.row(asked.headers["x-request-id"])

    assert row["client"] == client


# uvicorn's own command


UVICORN = (sys.executable, "-m", "uvicorn", "headrace.asgi:app", "--port", "0")
OPEN = """
server: {auth: none}
upstreams: {here: {forwarder: {openai: {base_url: "${UPSTREAM}/v1"}}, models: [m]}}
routes: {m: here}
"""


async def test_uvicorn_serves_it_from_the_environment(upstream: Loopback, tmp_path: Path) -> None:
    upstream.script(answers(COMPLETION), streams(*EVENTS))
    file = tmp_path / "mine.yaml"
    file.write_text(OPEN)
    environ = {"HEADRACE_CONFIG": str(file), "UPSTREAM": upstream.url}

    async with (
        printing([*UVICORN, "--no-access-log"], environ) as served,
        AsyncOpenAI(base_url=await live(served), api_key="any", max_retries=0) as client,
    ):
        whole = await client.chat.completions.create(model="m", messages=HI)
        stream = await client.chat.completions.create(model="m", messages=HI, stream=True)
        words = [part.choices[0].delta.content or "" async for part in stream]
        served.stop()
        await served.ended()

    assert whole.choices[0].message.content == "Hello world"
    assert "".join(words) == "Hello world"


async def live(served: Served) -> str:
    await served.until(lambda: bool(served.url), 20)
    return served.url


async def test_uvicorn_does_not_serve_what_is_open_to_all_unasked(
    upstream: Loopback, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(OPEN.replace("server: {auth: none}", ""))
    environ = {"HEADRACE_CONFIG": str(file), "UPSTREAM": upstream.url}

    async with printing(UVICORN, environ) as served:
        assert await served.ended() != 0

    assert any("nobody is asked for a key" in line for line in served.said)
    assert not served.url
