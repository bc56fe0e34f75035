"""The gateway inside somebody else's application: Starlette, FastAPI, or no server at all."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from fastapi import FastAPI
from openai import AsyncOpenAI
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, SimpleUser
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from headrace import Call, Caller, Forbidden, Gateway, Next, Reply
from headrace.config.build import build
from headrace.config.document import parse
from headrace.testing import Loopback, gateway
from headrace.testing.misbehaviour import COMPLETION, EVENTS, Act, answers, status, streams

from .serving import Note, eventually, in_thread, measured

CONFIG = """
    upstreams: {here: {forwarder: {openai: {base_url: "${UPSTREAM}/v1"}}, models: [m]}}
    routes: {m: here}
    """
HI: Any = [{"role": "user", "content": "hi"}]


@pytest.fixture
def made(upstream: Loopback) -> Gateway:
    return gateway(CONFIG, environ={"UPSTREAM": upstream.url})


async def home(_: Request) -> PlainTextResponse:
    return PlainTextResponse("the host's own page")


def in_starlette(made: Gateway) -> ASGIApp:
    """As the house's own page has it: the lifespan is handed over."""
    return Starlette(routes=[Route("/", home), Mount("/llm", made)], lifespan=made.lifespan)


def in_fastapi(made: Gateway) -> ASGIApp:
    """The lifespan entered in one's own."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with made.lifespan(app):
            yield

    app = FastAPI(lifespan=lifespan)
    app.add_api_route("/", lambda: "the host's own page")
    app.mount("/llm", made)
    return app


def deep(made: Gateway) -> ASGIApp:
    """Under a mount under a mount."""
    return Starlette(
        routes=[Route("/", home), Mount("/a", routes=[Mount("/b", made)])], lifespan=made.lifespan
    )


HOSTS = [(in_starlette, "/llm"), (in_fastapi, "/llm"), (deep, "/a/b")]


@pytest.mark.parametrize(("host", "prefix"), HOSTS, ids=["starlette", "fastapi", "deep"])
async def test_openais_client_reaches_it_under_its_prefix(
    made: Gateway, upstream: Loopback, host: Any, prefix: str
) -> None:
    upstream.script(answers(COMPLETION), streams(*EVENTS))

    async with (
        in_thread(host(made)) as url,
        AsyncOpenAI(base_url=f"{url}{prefix}/v1", api_key="any", max_retries=0) as client,
    ):
        whole = await client.chat.completions.create(model="m", messages=HI)
        stream = await client.chat.completions.create(model="m", messages=HI, stream=True)
        words = [part.choices[0].delta.content or "" async for part in stream]
        listed = [model.id async for model in client.models.list()]
        found = await client.models.retrieve("here/m")
        async with httpx2.AsyncClient() as http:
            assert "the host's own page" in (await http.get(url)).text
            ready = await http.get(f"{url}{prefix}/readyz")

    assert whole.choices[0].message.content == "Hello world"
    assert "".join(words) == "Hello world"
    assert listed == ["m", "here/m"]
    assert found.id == "here/m"
    assert ready.status_code == 200


async def test_its_errors_are_openais_under_a_prefix_too(made: Gateway) -> None:
    async with (
        in_thread(in_fastapi(made)) as url,
        AsyncOpenAI(base_url=f"{url}/llm/v1", api_key="any", max_retries=0) as client,
    ):
        with pytest.raises(openai.NotFoundError) as failed:
            await client.chat.completions.create(model="nobody", messages=HI)

    assert (failed.value.code, failed.value.param) == ("model_not_found", "model")


async def test_a_client_that_leaves_is_seen_under_a_prefix_too(
    made: Gateway, upstream: Loopback, record_property: Note
) -> None:
    upstream.script((*streams(*EVENTS[:2], done=False)[:-1], Act.STALL))

    async with (
        in_thread(in_starlette(made)) as url,
        AsyncOpenAI(base_url=f"{url}/llm/v1", api_key="any", max_retries=0) as client,
    ):
        stream = await client.chat.completions.create(model="m", messages=HI, stream=True)
        await anext(stream)
        with measured("a stream closed early under Starlette", record_property):
            await stream.close()
            await upstream.closed(upstream.requests[0].connection, within=1)


async def test_a_lifespan_that_was_forgotten_is_told(
    made: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        in_thread(Starlette(routes=[Mount("/llm", made)])) as url,
        AsyncOpenAI(base_url=f"{url}/llm/v1", api_key="any", max_retries=0) as client,
    ):
        with pytest.raises(openai.InternalServerError, match=r"lifespan=gateway\.lifespan"):
            await client.chat.completions.create(model="m", messages=HI)

    assert "lifespan=gateway.lifespan" in caplog.text


async def test_the_hosts_user_is_the_caller(upstream: Loopback) -> None:
    """The application around it has its own authentication, and says who was found."""
    upstream.script(answers(COMPLETION))

    def who(scope: Scope) -> Caller | None:
        user = scope.get("user")
        return Caller(user.username) if user else None

    made = gateway(CONFIG, environ={"UPSTREAM": upstream.url}, caller=who, open=False)

    class Auth:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if (b"x-user", b"ada") in scope.get("headers", ()):
                scope = {**scope, "user": SimpleUser("ada"), "auth": AuthCredentials()}
            await self.app(scope, receive, send)

    async with (
        in_thread(Auth(in_starlette(made))) as url,
        AsyncOpenAI(base_url=f"{url}/llm/v1", api_key="any", max_retries=0) as client,
    ):
        known = client.with_options(default_headers={"x-user": "ada"})
        said = await known.chat.completions.create(model="m", messages=HI)
        with pytest.raises(openai.AuthenticationError):
            await client.chat.completions.create(model="m", messages=HI)

    assert said.id == "chatcmpl-1"
    assert len(upstream.requests) == 1


async def test_mounted_it_leaves_signals_and_logging_alone(
    made: Gateway, upstream: Loopback
) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    handlers = list(logging.getLogger().handlers), list(logging.getLogger("headrace").handlers)
    threads = threading.active_count()

    async with made.lifespan(), made.client() as http:
        await http.get("/v1/models")
        assert threading.active_count() == threads

    assert before == [
        signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    ]
    assert handlers == (
        list(logging.getLogger().handlers), list(logging.getLogger("headrace").handlers)
    )  # fmt: skip


# In the same process, without a socket to the gateway


@pytest.fixture
async def client(made: Gateway) -> AsyncIterator[AsyncOpenAI]:
    async with made.lifespan(), made.client() as http:
        yield AsyncOpenAI(
            base_url="http://headrace/v1", api_key="any", http_client=http, max_retries=0
        )


async def test_openais_client_asks_it_in_the_same_process(
    client: AsyncOpenAI, upstream: Loopback
) -> None:
    upstream.script(answers(COMPLETION))

    said = await client.chat.completions.create(model="m", messages=HI)

    assert said.choices[0].message.content == "Hello world"
    assert json.loads(upstream.requests[0].body)["messages"] == HI


async def test_a_stream_in_the_same_process_comes_as_it_is_said(
    client: AsyncOpenAI, upstream: Loopback
) -> None:
    upstream.script((*streams(*EVENTS[:2], done=False)[:-1], Act.STALL))

    async with await client.chat.completions.create(model="m", messages=HI, stream=True) as words:
        said = [(await anext(words)).choices[0].delta.content for _ in range(2)]

    assert said == ["", "Hello"]


async def test_a_stream_in_the_same_process_that_is_closed_early_closes_the_upstream(
    client: AsyncOpenAI, upstream: Loopback, record_property: Note
) -> None:
    upstream.script((*streams(*EVENTS[:2], done=False)[:-1], Act.STALL))
    stream = await client.chat.completions.create(model="m", messages=HI, stream=True)
    await anext(stream)

    with measured("a stream closed early in the same process", record_property):
        await stream.close()
        await upstream.closed(upstream.requests[0].connection, within=1)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_in_the_same_process_that_is_cancelled_closes_the_upstream(
    client: AsyncOpenAI, upstream: Loopback, stream: bool, record_property: Note
) -> None:
    upstream.script("never")
    asking = asyncio.create_task(
        client.chat.completions.create(model="m", messages=HI, stream=stream)
    )
    await upstream.asked()

    with measured(f"a call cancelled in the same process ({stream=})", record_property):
        asking.cancel()
        await upstream.closed(upstream.requests[0].connection, within=1)

    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_failures_in_the_same_process_have_their_classes(
    client: AsyncOpenAI, upstream: Loopback
) -> None:
    upstream.script(status(429, {"error": {"message": "slow down"}}, "retry-after: 3"))
    with pytest.raises(openai.RateLimitError) as limited:
        await client.chat.completions.create(model="m", messages=HI)

    upstream.script((*streams(*EVENTS[:2], done=False)[:-1], Act.CLOSE))
    parts = await client.chat.completions.create(model="m", messages=HI, stream=True)
    with pytest.raises(openai.APIError) as cut:
        [part async for part in parts]

    assert limited.value.response.headers["retry-after"] == "3"
    assert cut.value.code == "upstream_truncated"


async def test_what_a_plugin_forbids_is_a_permission_denied(upstream: Loopback) -> None:
    async def forbids(call: Call, call_next: Next) -> Reply:
        raise Forbidden("not for you", code="not_allowed")

    plan = build(parse(CONFIG, "gateway.yaml", {"UPSTREAM": upstream.url}))
    made = Gateway(replace(plan, chain=(forbids,)), open=True)

    async with made.lifespan(), made.client() as http:
        client = AsyncOpenAI(base_url="http://headrace/v1", api_key="any", http_client=http)
        with pytest.raises(openai.PermissionDeniedError) as failed:
            await client.chat.completions.create(model="m", messages=HI)

    assert (failed.value.code, failed.value.type) == ("not_allowed", "permission_error")
    assert upstream.requests == []


async def test_many_streams_in_the_same_process_leave_nothing_behind(
    made: Gateway, client: AsyncOpenAI, upstream: Loopback
) -> None:
    upstream.script(streams(*EVENTS))

    async def ask(leave: bool) -> None:
        stream = await client.chat.completions.create(model="m", messages=HI, stream=True)
        async with stream:
            async for _ in stream:
                if leave:
                    break

    await asyncio.gather(*(ask(number % 2 == 0) for number in range(40)))

    await eventually(lambda: not any("Visit" in repr(task) for task in asyncio.all_tasks()))
    assert made.edge.serving == 0


async def test_a_file_is_loaded_as_the_house_says(tmp_path: Path, upstream: Loopback) -> None:
    upstream.script(answers(COMPLETION))
    file = tmp_path / "gateway.yaml"
    file.write_text(
        "upstreams: {here: {forwarder: {openai: {base_url: '${UPSTREAM}/v1'}}}}\nroutes: {m: here}"
    )
    made = Gateway.load(file, environ={"UPSTREAM": upstream.url}, open=True)

    async with (
        in_thread(in_starlette(made)) as url,
        AsyncOpenAI(base_url=f"{url}/llm", api_key="any") as client,
    ):
        said = await client.chat.completions.create(model="m", messages=HI)

    assert said.model == "m"
