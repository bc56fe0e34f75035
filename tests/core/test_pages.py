"""What the gateway answers by itself: whether it lives, and a page for people."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from starlette.requests import HTTPConnection

from headrace import Caller, Gateway, Page, Pages, Record, Unauthorized, pages
from headrace.testing import Client, gateway
from headrace.version import __version__

EVIL = "\"><script>alert('x')</script>"
KEY = "ba78" * 16
GUARDED = f"""
    server: {{chain: [api_key: {{keys: {{{KEY}: ann}}}}]}}
    upstreams: {{hidden-upstream: {{forwarder: mock, models: [hidden-model]}}}}
    routes: {{hidden-route: hidden-upstream}}
"""


def home(*models: tuple[str, str], url: str = "http://here", closed: bool = False) -> pages.Page:
    return pages.home(url, models, closed=closed)


@asynccontextmanager
async def running(text: str = "", **options: Any) -> AsyncIterator[Client]:
    made = gateway(text, **options)
    async with made.lifespan():
        yield Client(made)


def test_the_home_page_says_what_is_live_and_how_to_ask() -> None:
    text = home(("fast", "local"), ("slow", "openai")).body.decode()

    assert "<td><code>fast</code></td><td>local</td>" in text
    assert 'base_url="http://here/v1"' in text
    assert "curl -N http://here/v1/chat/completions" in text
    assert 'model="fast"' in text


@pytest.mark.parametrize(
    "page",
    [home((EVIL, "a")), home(("m", EVIL)), home(url=EVIL), home((EVIL, EVIL), url=EVIL)],
    ids=["a model's name", "an upstream's name", "the host", "all"],
)
def test_nothing_in_the_page_is_taken_for_markup(page: pages.Page) -> None:
    text = page.body.decode()

    assert "<script" not in text
    assert "alert('x')" not in text
    assert "&lt;script&gt;" in text


def test_the_page_may_load_and_run_nothing() -> None:
    page = home(("m", "a"))
    policy = page.headers["content-security-policy"]
    style = re.search("<style>(.*?)</style>", page.body.decode(), re.DOTALL)

    assert style
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; ")
    assert "frame-ancestors 'none'" in policy
    assert "script-src" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["cache-control"] == "no-store"
    assert "src=" not in page.body.decode()


def test_a_closed_gateway_tells_no_models() -> None:
    text = home(("hidden-model", "hidden-upstream"), closed=True).body.decode()

    assert "wants a key" in text
    assert "YOUR_KEY" in text
    assert "hidden" not in text


async def test_the_home_page_of_a_guarded_gateway_is_open_and_tells_nothing() -> None:
    async with running(GUARDED, open=False) as client:
        response = await client.get("/")
        text = (await response.read()).decode()

    assert response.status == 200
    assert "hidden" not in text


async def test_a_host_application_that_finds_the_caller_closes_the_page_too() -> None:
    async with running(caller=lambda scope: Caller("ann")) as client:
        response = await client.get("/")

        assert b"wants a key" in await response.read()


async def test_the_page_takes_the_clients_word_for_the_host_and_escapes_it() -> None:
    async with running() as client:
        response = await client.get("/", headers={"host": '"><b>evil'})
        text = (await response.read()).decode()

    assert "<b>" not in text
    assert "&quot;&gt;&lt;b&gt;evil/v1" in text


async def test_below_a_prefix_the_page_names_the_prefix() -> None:
    async with running() as client:
        response = await client.get("/llm/", root_path="/llm")

        assert b'base_url="http://localhost/llm/v1"' in await response.read()


@pytest.mark.parametrize("path", ["/health", "/healthz"])
async def test_health_is_open_to_all(path: str) -> None:
    async with running(GUARDED, open=False) as client:
        response = await client.get(path)

        assert response.status == 200
        assert await response.json() == {"status": "ok", "version": __version__}


async def test_a_gateway_that_stops_is_healthy_but_not_ready() -> None:
    made = gateway()
    async with made.lifespan():
        client = Client(made)
        ready = await client.get("/readyz")
        made.draining = True
        stopping = await client.get("/readyz")
        health = await client.get("/health")

    assert (ready.status, stopping.status, health.status) == (200, 503, 200)


async def test_a_gateway_that_was_not_started_says_what_is_missing() -> None:
    response = await Client(gateway()).get("/health")

    assert response.status == 503
    told = json.loads(await response.read())["error"]
    assert told["code"] == "not_started"
    assert "lifespan=gateway.lifespan" in told["message"]


async def test_head_is_get_without_a_body() -> None:
    async with running() as client:
        get = await client.get("/health")
        head = await client.request("HEAD", "/health")

        assert await head.read() == b""
        assert head.headers["content-length"] == get.headers["content-length"]


async def test_other_methods_are_not_for_pages() -> None:
    async with running() as client:
        assert (await client.post("/health")).status == 404


class Shelf:
    """An observer with pages."""

    def __init__(self) -> None:
        self.pages: Pages = {"/shelf": self.shelf, "/closed": self.closed, "/broken": self.broken}

    def __call__(self, record: Record) -> None:
        """Nothing to note."""

    async def shelf(self, asked: HTTPConnection) -> Page:
        """Who asks what."""
        assert asked.client
        told = f"{asked.client.host} {asked.headers['x-name']} {asked.query_params['q']}"
        return Page(200, {"content-type": "text/plain"}, told.encode())

    async def closed(self, asked: HTTPConnection) -> Page:
        """Nobody may see it."""
        raise Unauthorized("show who you are", code="missing_api_key")

    async def broken(self, asked: HTTPConnection) -> Page:
        """It has a fault."""
        raise ZeroDivisionError("sk-secret")


@asynccontextmanager
async def shelved() -> AsyncIterator[Client]:
    made = gateway()
    made = Gateway(replace(made.plan, observers=(Shelf(),)), open=True)
    async with made.lifespan():
        yield Client(made)


async def test_an_observers_page_is_told_who_asks_what() -> None:
    async with shelved() as client:
        response = await client.get("/shelf?q=books", headers={"x-name": "ann"})

        assert await response.read() == b"127.0.0.1 ann books"
        assert response.headers["content-type"] == "text/plain"


async def test_what_an_observers_page_refuses_is_told_as_openai_tells_it() -> None:
    async with shelved() as client:
        response = await client.get("/closed")
        error = (await response.json())["error"]

    assert response.status == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.headers["x-request-id"].startswith("req_")
    assert (error["code"], error["message"]) == ("missing_api_key", "show who you are")


async def test_a_page_that_fails_says_nothing_and_its_fault_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with shelved() as client:
        response = await client.get("/broken")
        text = await response.read()

    assert response.status == 500
    assert json.loads(text)["error"]["type"] == "internal_error"
    assert b"secret" not in text
    assert "the page at /broken failed" in caplog.text


async def test_the_gateways_own_pages_are_where_they_are_said_to_be() -> None:
    async with running() as client:
        assert {(await client.get(path)).status for path in pages.OWN} == {200}
