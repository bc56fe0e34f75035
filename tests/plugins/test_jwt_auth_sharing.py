"""`jwt_auth` in several workers: one of them asks the issuer, the others take what it was told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from headrace import Duration, Memory, Secret, Step, Store, Unavailable
from headrace.store.redis import Redis
from headrace.testing import Clock
from headrace_plugins.jwt_auth import JwtAuth
from headrace_plugins.jwt_auth.shared import Shared, key_of

from ..stores.servers import Server, running
from .jwt.login import Login, logging_in
from .jwt.showing import opened
from .jwt.tokens import ED, RS, token
from .test_jwt_auth_keys import fetched, outcome, source_of, stranger, until


@pytest.fixture
async def login() -> AsyncIterator[Login]:
    async with logging_in() as login:
        yield login


@pytest.fixture(scope="module")
def valkey() -> Iterator[Server]:
    with running() as server:
        yield server


@pytest.fixture(params=["memory", "valkey"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    """A store that is shared, on its own clock, or on that of the test."""
    if request.param == "memory":
        yield Memory()
        return
    server: Server = request.getfixturevalue("valkey")
    server.tell("FLUSHALL")
    store = Redis(url=Secret(server.url), timeout=Duration(5))
    yield store
    await store.aclose()


class Gone(Memory):
    """A store that does not answer."""

    async def get(self, key: str) -> bytes | None:
        raise Unavailable("the store does not answer")

    async def set(self, key: str, value: bytes, *, ttl: float) -> bool:
        raise Unavailable("the store does not answer")

    async def apply(self, *steps: Step) -> list[tuple[float, ...]]:
        raise Unavailable("the store does not answer")


class Halting(Gone):
    """A store that keeps what is set, and does no steps."""

    get = Memory.get
    set = Memory.set


@asynccontextmanager
async def workers(count: int, **options: Any) -> AsyncIterator[list[JwtAuth]]:
    """As many of them, that start at the same time."""
    async with AsyncExitStack() as stack:
        starting = [stack.enter_async_context(opened(**options)) for _ in range(count)]
        yield list(await asyncio.gather(*starting))


async def test_workers_that_start_together_ask_once(login: Login, store: Store) -> None:
    async with workers(4, jwks=login.jwks, store=store) as plugins:
        for plugin in plugins:
            assert await outcome(plugin, token()) == "ann"

        assert login.fetches == sum(plugin.fetches for plugin in plugins) == 1


async def test_one_that_starts_later_asks_nobody(login: Login, store: Store) -> None:
    async with opened(jwks=login.jwks, store=store):
        login.ill("rst")
        async with opened(jwks=login.jwks, store=store) as later:
            assert await outcome(later, token()) == "ann"
            assert login.fetches == 1


async def test_the_cool_down_is_one_for_all(login: Login, clock: Clock) -> None:
    async with workers(4, jwks=login.jwks, store=Memory()) as plugins:
        clock.advance(10.1)
        for number in range(20):
            asked = [outcome(plugin, stranger(number)) for plugin in plugins]
            assert await asyncio.gather(*asked) == ["invalid_token"] * 4

        assert login.fetches == 2


async def test_a_new_key_counts_for_all_with_one_fetch(login: Login, clock: Clock) -> None:
    async with workers(4, jwks=login.jwks, store=Memory()) as plugins:
        login.signers = (ED,)
        clock.advance(10.1)

        asked = [outcome(plugin, token(ED)) for plugin in plugins]

        assert await asyncio.gather(*asked) == ["ann"] * 4
        assert login.fetches == 2


async def test_all_are_renewed_by_one(login: Login, clock: Clock) -> None:
    async with workers(3, jwks=login.jwks, store=Memory()) as plugins:
        login.signers = (ED,)
        clock.advance(301)
        await until(lambda: all(source_of(plugin).keys.knows("ed") for plugin in plugins))

        assert login.fetches == 2


async def test_a_store_that_does_not_answer_leaves_each_to_himself(
    login: Login, clock: Clock
) -> None:
    async with workers(2, jwks=login.jwks, store=Gone()) as plugins:
        assert login.fetches == 2
        clock.advance(10.1)
        for number in range(20):
            asked = [outcome(plugin, stranger(number)) for plugin in plugins]
            assert await asyncio.gather(*asked) == ["invalid_token"] * 2

        assert login.fetches == 4


async def test_a_worker_that_starts_in_an_outage_has_the_keys_of_before(
    login: Login, clock: Clock
) -> None:
    store = Memory()
    async with opened(jwks=login.jwks, store=store):
        pass
    login.ill("rst")
    clock.advance(1800)
    async with opened(jwks=login.jwks, store=store) as plugin:
        assert await outcome(plugin, token()) == "ann"

        clock.advance(1801)
        await fetched(plugin)
        assert await outcome(plugin, token()) == "keys_unavailable"


async def test_keys_of_an_age_that_nobody_can_tell_are_not_taken_over(
    login: Login, clock: Clock
) -> None:
    store = Halting()
    async with opened(jwks=login.jwks, store=store):
        assert await store.get(key_of(login.jwks)) is None

    kept = {"document": {"keys": [RS.jwk()]}, "at": clock.now - 7200}
    await store.set(key_of(login.jwks), json.dumps(kept).encode(), ttl=9999)
    login.ill("rst")
    async with opened(jwks=login.jwks, store=store) as plugin:
        assert await outcome(plugin, token()) == "keys_unavailable"


@pytest.mark.parametrize(
    "kept",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"document": {"keys": []}, "at": 0}',
        b'{"document": {"keys": []}, "at": "soon"}',
        b'{"document": {"keys": []}}',
        b'{"document": null, "at": 1, "more": 2}',
        b'{"document": {"keys": []}, "at": 1e308}',
        b'{"document": {"keys": [{"kty": "oct"}]}, "at": null}',
    ],
)
async def test_what_makes_no_sense_in_the_store_is_nothing(
    login: Login, clock: Clock, caplog: pytest.LogCaptureFixture, kept: bytes
) -> None:
    store = Memory()
    await store.set(key_of(login.jwks), kept, ttl=3600)
    login.ill("rst")
    async with opened(jwks=login.jwks, store=store) as plugin:
        assert await outcome(plugin, token()) == "keys_unavailable"
        login.well()
        clock.advance(10.1)
        assert await outcome(plugin, token()) == "ann"
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]


async def test_what_is_shared_is_for_one_source_and_read_as_strictly(login: Login) -> None:
    store = Memory()
    async with (
        logging_in() as other,
        opened(jwks=login.jwks, store=store),
        opened(jwks=other.jwks, store=store, algorithms=["ES256"]) as elsewhere,
        opened(jwks=other.jwks, store=store, algorithms=["EdDSA"]) as strict,
    ):
        assert (login.fetches, other.fetches) == (1, 1)
        assert await outcome(elsewhere, token()) == "invalid_token"
        assert await outcome(strict, token()) == "invalid_token"


async def test_whose_turn_it_is_says_lua_as_python_does(store: Store) -> None:
    step = Shared(store=store, key="k", cool_down=60, keep=60).step()
    over = replace(step, arguments=(0.0,))

    answers = [(await store.apply(each))[0] for each in (step, step, over, step, step)]

    assert [mine for mine, _ in answers] == [1, 0, 1, 0, 0]
    times = [now for _, now in answers]
    assert times == sorted(times)
