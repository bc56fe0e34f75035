"""`headrace cache`: what caches keep is cleared, all of it, or what is a tenant's or a route's."""

from __future__ import annotations

import asyncio
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace import Caller, Gateway, Secret, Sha256, kept_under, owner_of
from headrace.store.redis import Redis
from headrace.testing import Client

from ..stores.servers import VALKEY, Server, free_port, running
from .running import headrace

GATEWAY = """
    server: {store: "${STORE:-memory://}", auth: none}
    upstreams: {a: mock}
    routes:
      fast: {chain: [cache], targets: a}
      "*": {chain: [cache: {name: other}], targets: a}
    """
RED, BLUE, ANN = Caller("ann", tenant="red"), Caller("ann", tenant="blue"), Caller("ann")
KEY = Caller("staff", id="ann", key=Sha256("0" * 64), listed=True)
ISSUED = Caller("ann", issuer="https://login.example.com/")
KEPT = {
    kept_under(cache, route, owner_of(caller)) + "1"
    for cache, route in [("cache", "fast"), ("other", "*"), ("other", "a/*")]
    for caller in (RED, BLUE, ANN, KEY, ISSUED)
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(VALKEY) as server:
        yield server


@pytest.fixture
def file(tmp_path: Path, server: Server) -> Path:
    """A gateway, and what it keeps."""
    file = tmp_path / "gateway.yaml"
    file.write_text(textwrap.dedent(GATEWAY))
    server.tell("FLUSHALL")

    async def keep() -> None:
        async with Redis(url=Secret(server.url)) as store:
            for key in KEPT | {"breaker:a/"}:
                await store.set(key, b"kept", ttl=60)

    asyncio.run(keep())
    return file


def left(server: Server) -> int:
    """How many answers are left."""
    return len(server.tell("KEYS", "headrace:v:cache:*"))


@pytest.mark.parametrize(
    ("said", "count"),
    [
        (["--all"], 15),
        (["--route", "fast"], 5),
        (["--tenant", "red"], 3),
        (["--tenant", "ann"], 9),
        (["--tenant", "blue", "--route", "a/*"], 1),
        (["--tenant", "nobody"], 0),
    ],
    ids=str,
)
def test_it_clears_what_is_meant_and_nothing_else(
    file: Path, server: Server, said: list[str], count: int
) -> None:
    told = headrace("cache", "clear", str(file), *said, STORE=server.url)

    assert told.exit_code == 0, told.output
    assert f"{count} answer" in told.stderr
    assert left(server) == len(KEPT) - count
    assert server.tell("KEYS", "headrace:v:breaker:*")


@pytest.mark.parametrize("said", [[], ["--all", "--tenant", "red"]], ids=str)
def test_it_wants_to_be_told_what(file: Path, server: Server, said: list[str]) -> None:
    told = headrace("cache", "clear", str(file), *said, STORE=server.url)

    assert told.exit_code == 2
    assert "say what to clear: --tenant, --route, both of them, or --all" in told.stderr
    assert left(server) == len(KEPT)


def test_it_knows_the_routes(file: Path, server: Server) -> None:
    told = headrace("cache", "clear", str(file), "--route", "fasst", STORE=server.url)

    assert told.exit_code == 1
    assert "has no route 'fasst'; it has 'fast', '*'" in told.stderr


def test_it_says_that_it_cannot_reach_the_memory_of_another_process(file: Path) -> None:
    told = headrace("cache", "clear", str(file), "--all")

    assert told.exit_code == 1
    assert "nobody but the process that serves can reach" in told.stderr


def test_it_says_that_there_is_no_cache(tmp_path: Path, server: Server) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("upstreams: {a: mock}\nroutes: {'*': a}\n")

    told = headrace("cache", "clear", str(file), "--all")

    assert told.exit_code == 1
    assert "has no cache" in told.stderr


def test_it_says_that_the_store_does_not_answer(file: Path) -> None:
    nowhere = f"redis://127.0.0.1:{free_port()}"

    told = headrace("cache", "clear", str(file), "--all", STORE=nowhere)

    assert told.exit_code == 1
    assert "the store does not answer" in told.stderr


@pytest.mark.parametrize(("temperature", "said"), [(1, True), (0, False)])
def test_explain_says_why_a_request_is_not_cached(
    tmp_path: Path, temperature: int, said: bool
) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(
        "upstreams: {a: {forwarder: openai}}\n"
        "routes: {'*': {chain: [cache: {when: deterministic}], targets: a}}\n"
    )
    body = b'{"model": "m", "messages": [], "temperature": %d}' % temperature

    told = headrace("explain", str(file), "--request", "-", stdin=body)

    assert told.exit_code == 0, told.output
    assert ("is not cached: not deterministic" in told.stdout) == said
    assert "POST https://api.openai.com/v1/chat/completions" in told.stdout


@pytest.mark.parametrize(
    ("caller", "asked", "said"),
    [
        (None, [], "is answered from the cache (hit, 0 s old)"),
        (RED, ["--tenant", "red"], "is answered from the cache (hit, 0 s old)"),
        (KEY, ["--tenant", "ann"], "is answered from the cache (hit, 0 s old)"),
        (ANN, ["--tenant", "ann"], "is answered from the cache (hit, 0 s old)"),
        (RED, ["--tenant", "blue"], "is not in the cache"),
        (RED, [], "is not in the cache"),
    ],
)
def test_explain_says_whether_an_answer_is_kept(
    file: Path, server: Server, caller: Caller | None, asked: list[str], said: str
) -> None:
    body = b'{"model": "fast", "messages": [{"role": "user", "content": "hi"}]}'

    async def ask() -> None:
        made = Gateway.load(file, environ={"STORE": server.url}, caller=lambda scope: caller)
        client = Client(made if caller else Gateway.load(file, environ={"STORE": server.url}))
        async with client.app.lifespan():  # type: ignore[attr-defined]
            json = {"content-type": "application/json"}
            await (await client.post("/v1/chat/completions", body=body, headers=json)).read()

    asyncio.run(ask())
    told = headrace(
        "explain", str(file), "--request", "-", "--connect", *asked, stdin=body, STORE=server.url
    )

    assert told.exit_code == 0, told.output
    assert said in told.stdout


def test_explain_says_why_an_answer_is_not_looked_for_in_a_store_that_is_gone(file: Path) -> None:
    nowhere = f"redis://127.0.0.1:{free_port()}"

    told = headrace("explain", str(file), "--model", "fast", "--connect", STORE=nowhere)

    assert told.exit_code == 0, told.output
    assert "is not in the cache: " in told.stdout
