"""`jwt_auth` and the keys of its issuer: new ones, old ones, and an issuer that is ill."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from headrace import Overloaded, Request, Response, Transport, Unauthorized
from headrace.testing import Clock, Loopback
from headrace.testing.misbehaviour import Behaviour, Pause, Received, Step, answers, head, status
from headrace.transport import best
from headrace_plugins.jwt_auth import JwtAuth
from headrace_plugins.jwt_auth.jwks import Jwks
from headrace_plugins.jwt_auth.sources import File

from .jwt.login import Login, logging_in
from .jwt.showing import Nowhere, opened, show
from .jwt.tokens import ABSENT, ED, ES, ISSUER, RS, Signer, token


@pytest.fixture
async def login() -> AsyncIterator[Login]:
    async with logging_in() as login:
        yield login


async def until(true: Callable[[], bool], within: float = 5) -> None:
    """Wait for something that another task does; raises TimeoutError."""
    async with asyncio.timeout(within):
        while not true():
            await asyncio.sleep(0.005)


async def outcome(plugin: JwtAuth, shown: str) -> str:
    """Who is let in, or the code that a client is told instead."""
    try:
        return str((await show(plugin, shown)).id)
    except (Unauthorized, Overloaded) as error:
        return str(error.code)


def source_of(plugin: JwtAuth) -> Jwks:
    """What looks after its keys."""
    assert isinstance(plugin._source, Jwks)
    return plugin._source


async def fetched(plugin: JwtAuth, slow: Login | None = None) -> None:
    """Wait for the next fetch to begin and to end; that of a slow server ends at its deadline."""
    before = plugin.fetches
    await until(lambda: plugin.fetches > before)
    if slow:
        await slow.server.asked(plugin.fetches, within=5)
        Clock.running().advance(2.1)
    await until(lambda: source_of(plugin)._renewing is None)


def stranger(number: int) -> str:
    return token(header={"kid": f"random-{number}"})


# When all is well


async def test_the_first_call_finds_the_keys_there(login: Login) -> None:
    async with opened(jwks=login.jwks) as plugin:
        assert plugin.fetches == login.fetches == 1

        assert await outcome(plugin, token(RS)) == "ann"
        assert await outcome(plugin, token(ES)) == "ann"

    assert login.fetches == 1
    [asked] = login.server.requests
    assert (asked.header("authorization"), asked.header("accept")) == (None, "application/json")


async def test_the_issuer_tells_where_its_keys_are(login: Login) -> None:
    async with opened(issuer=login.issuer) as plugin:
        assert await outcome(plugin, token(iss=login.issuer)) == "ann"
        assert await outcome(plugin, token()) == "invalid_token"


async def test_a_new_key_counts_with_the_first_token_that_names_it(
    login: Login, clock: Clock
) -> None:
    async with opened(jwks=login.jwks) as plugin:
        login.signers = (RS, ED)
        clock.advance(10.1)

        assert await outcome(plugin, token(ED)) == "ann"
        assert plugin.fetches == login.fetches == 2


async def test_a_key_that_was_taken_away_counts_no_longer_than_the_refresh(
    login: Login, clock: Clock
) -> None:
    async with opened(jwks=login.jwks) as plugin:
        shown = token(ES)
        assert await outcome(plugin, shown) == "ann"
        login.signers = (RS,)

        clock.advance(301)
        await until(lambda: not source_of(plugin).keys.knows("es"))

        assert await outcome(plugin, shown) == "invalid_token"  # although it was verified before
        assert await outcome(plugin, token(RS)) == "ann"


async def test_a_key_that_is_to_be_used_otherwise_must_verify_anew(
    login: Login, clock: Clock
) -> None:
    async with opened(jwks=login.jwks) as plugin:
        shown = token(RS)
        assert await outcome(plugin, shown) == "ann"
        login.ill(answers({"keys": [RS.jwk(alg="RS512"), ES.jwk()]}))

        clock.advance(301)
        await until(lambda: login.fetches == 2 and source_of(plugin)._renewing is None)

        assert await outcome(plugin, shown) == "invalid_token"


async def test_keys_are_renewed_in_the_background_and_no_call_waits(
    login: Login, clock: Clock
) -> None:
    async with opened(jwks=login.jwks) as plugin:
        login.ill("never")
        clock.advance(301)
        await until(lambda: login.fetches == 2)

        async with asyncio.timeout(0.5):
            assert await outcome(plugin, token()) == "ann"


# Unknown keys


async def test_a_flood_of_unknown_keys_is_one_fetch_in_the_cool_down(
    login: Login, clock: Clock
) -> None:
    async with opened(jwks=login.jwks) as plugin:
        for round_ in range(3):
            for number in range(200):
                assert await outcome(plugin, stranger(number)) == "invalid_token"
                if number % 50 == 0:
                    assert await outcome(plugin, token(jti=f"{round_}-{number}")) == "ann"
            assert login.fetches == plugin.fetches == 1 + round_
            clock.advance(10.1)


async def test_many_calls_at_once_wait_for_one_fetch(login: Login, clock: Clock) -> None:
    async with opened(jwks=login.jwks) as plugin:
        clock.advance(10.1)
        login.signers = (ED,)

        outcomes = await asyncio.gather(
            *(outcome(plugin, token(ED, jti=str(number))) for number in range(50)),
            *(outcome(plugin, stranger(number)) for number in range(50)),
        )

        assert outcomes == ["ann"] * 50 + ["invalid_token"] * 50
        assert login.fetches == 2


async def test_what_no_key_could_verify_asks_for_none(login: Login, clock: Clock) -> None:
    async with opened(jwks=login.jwks) as plugin:
        clock.advance(10.1)

        assert await outcome(plugin, token(header={"alg": "none"})) == "invalid_token"
        assert await outcome(plugin, token(header={"kid": "k" * 1000})) == "invalid_token"
        assert await outcome(plugin, token(ED, header={"kid": "rs"})) == "invalid_token"
        assert login.fetches == 1


async def test_a_client_that_leaves_does_not_end_the_fetch_for_others(
    login: Login, clock: Clock
) -> None:
    async with opened(jwks=login.jwks) as plugin:
        clock.advance(10.1)
        login.signers = (ED,)
        leaving = asyncio.ensure_future(outcome(plugin, token(ED)))
        staying = asyncio.ensure_future(outcome(plugin, token(ED)))
        await login.server.asked(2)

        leaving.cancel()

        assert await staying == "ann"
        assert login.fetches == 2


# Keys without an id


async def test_one_key_needs_no_id(login: Login, clock: Clock) -> None:
    nameless, other = (Signer(ABSENT, "ES256", each.private) for each in (ES, _other()))
    login.signers = (nameless,)
    async with opened(jwks=login.jwks) as plugin:
        assert await outcome(plugin, token(nameless)) == "ann"
        assert await outcome(plugin, token(nameless, header={"kid": "unheard-of"})) == "ann"

        login.signers = (other,)
        clock.advance(10.1)
        assert await outcome(plugin, token(other)) == "ann"
        assert await outcome(plugin, token(nameless)) == "invalid_token"


def _other() -> Signer:
    from cryptography.hazmat.primitives.asymmetric import ec

    return Signer("other", "ES256", ec.derive_private_key(8, ec.SECP256R1()))


async def test_a_token_without_an_id_may_mean_any_of_a_few(login: Login) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec

    keys = [
        Signer(f"{number}", "ES256", ec.derive_private_key(number + 1, ec.SECP256R1()))
        for number in range(6)
    ]
    login.signers = (RS, *keys)
    async with opened(jwks=login.jwks) as plugin:
        tried = [await outcome(plugin, token(key, header={"kid": ABSENT})) for key in keys]

    assert tried == ["ann"] * 4 + ["invalid_token"] * 2


# An issuer that is ill


def _drip(_: Received) -> Iterator[Step]:
    yield head(200, "content-type: application/json", "content-length: 1000")
    while True:
        yield b" "
        yield Pause(0.05)


def _huge(_: Received) -> Iterator[Step]:
    yield head(200, "content-type: application/json", f"content-length: {3 * 2**20}")
    yield b'{"keys": ['
    yield from [b" " * 2**16] * 47


SLOW = "nothing came within 2 s"
ILL: dict[str, tuple[Behaviour | str, str]] = {
    "silent": ("never", SLOW),
    "a head that drips": ("drip-headers", SLOW),
    "a body that drips": (_drip, SLOW),
    "reset": ("rst", "connection_lost"),
    "broken off": ("truncated-cl", "upstream_truncated"),
    "no HTTP": ("garbage", "upstream_protocol"),
    "huge": (_huge, "upstream_too_large"),
    "a bomb": ("gzip-bomb", "upstream_too_large"),
    "a redirect": ("redirect", "upstream_redirect"),
    "404": (status(404, {"keys": [RS.jwk()]}), "upstream_404"),
    "500": (status(500, b"oh"), "upstream_500"),
    "nothing": ("empty-200", "upstream_invalid"),
    "HTML": ("html-200", "upstream_invalid"),
    "broken JSON": ("invalid-json", "upstream_invalid"),
    "another API": (answers({"choices": []}), "it is no JWK Set"),
    "a list": (answers([RS.jwk()]), "it is no JWK Set"),
    "keys that are no list": (answers({"keys": {"rs": RS.jwk()}}), "it is no JWK Set"),
    "no keys": (answers({"keys": []}), "none of its 0 keys can be used"),
    "keys of nothing": (answers({"keys": [None, 1, "rs", {}]}), "none of its 4 keys can be used"),
    "secrets": (
        answers({"keys": [{"kty": "oct", "kid": "rs", "k": "c2VjcmV0"}]}),
        "a kty that is not RSA, EC or OKP",
    ),
    "keys for encryption": (answers({"keys": [RS.jwk(use="enc")]}), "not for verifying"),
    "odd keys": (answers({"keys": [RS.jwk(kid=7)]}), "a kid that is not text"),
    "keys without end": (answers({"keys": [RS.jwk(n="A" * 4096)]}), "of more than 16384 bits"),
    "broken keys": (answers({"keys": [RS.jwk(n="!"), ES.jwk(y="AAAA")]}), "a broken key"),
}  # fmt: skip


@pytest.mark.parametrize("illness", ILL)
async def test_known_keys_survive_an_issuer_with(
    illness: str, login: Login, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    behaviour, reason = ILL[illness]
    async with opened(jwks=login.jwks) as plugin:
        login.ill(behaviour)
        for seconds in (301, 11, 11):
            clock.advance(seconds)
            await fetched(plugin, slow=login if reason == SLOW else None)

        assert await outcome(plugin, token()) == "ann"
        assert await outcome(plugin, token(ED)) == "invalid_token"
        login.well()
        clock.advance(11)
        await until(lambda: len(caplog.records) == 2)

    down, up = (record.getMessage() for record in caplog.records)
    assert down.startswith(f"no keys from {login.jwks}: ")
    assert reason in down
    assert up == f"the keys of {login.jwks} are there again"


@pytest.mark.parametrize("illness", ILL)
async def test_a_gateway_starts_beside_an_issuer_with(
    illness: str, login: Login, clock: Clock
) -> None:
    behaviour, reason = ILL[illness]
    login.ill(behaviour)
    async with opening(login, clock, slow=reason == SLOW) as plugin:
        with pytest.raises(Overloaded) as caught:
            await show(plugin, token())
        assert (caught.value.status, caught.value.code) == (503, "keys_unavailable")
        assert 1 <= int(caught.value.headers["retry-after"]) <= 10
        assert await outcome(plugin, "no.token.") == "invalid_token"  # that needs no key
        assert login.fetches == 1

        login.well()
        clock.advance(10.1)
        assert await outcome(plugin, token()) == "ann"


@asynccontextmanager
async def opening(login: Login, clock: Clock, *, slow: bool) -> AsyncIterator[JwtAuth]:
    """The plugin, opened while its issuer is ill, once the first fetch has failed."""
    async with AsyncExitStack() as stack:
        entered = stack.enter_async_context(opened(jwks=login.jwks))
        entering = asyncio.ensure_future(entered)
        if slow:
            await login.server.asked(within=5)
            clock.advance(1.1)
        plugin = await entering
        clock.advance(1 if slow else 0)
        await until(lambda: source_of(plugin)._renewing is None)
        yield plugin


async def test_an_issuer_that_nobody_listens_for(clock: Clock) -> None:
    async with Loopback() as gone:
        url = f"{gone.url}/keys"
    async with opened(jwks=url) as plugin:
        assert await outcome(plugin, token()) == "keys_unavailable"
        clock.advance(10.1)
        assert await outcome(plugin, token()) == "keys_unavailable"
        assert plugin.fetches == 2


async def test_nobody_waits_for_keys_longer_than_a_second_and_the_fetch_goes_on(
    login: Login, clock: Clock
) -> None:
    login.ill("never")
    async with AsyncExitStack() as stack:
        entering = asyncio.ensure_future(stack.enter_async_context(opened(jwks=login.jwks)))
        await login.server.asked(within=5)
        clock.advance(1.05)
        plugin = await entering
        assert source_of(plugin)._renewing
        clock.advance(9)

        asking = asyncio.ensure_future(outcome(plugin, token()))
        await login.server.asked(2, within=5)
        clock.advance(1.05)
        assert await asking == "keys_unavailable"
        assert source_of(plugin)._renewing

        clock.advance(1)
        await login.server.closed(within=5)


async def test_when_it_closes_the_fetch_is_given_up(login: Login, clock: Clock) -> None:
    before = asyncio.all_tasks()
    async with opened(jwks=login.jwks) as plugin:
        login.ill("never")
        clock.advance(301)
        await until(lambda: plugin.fetches == 2)
        await login.server.asked(2, within=5)

    await login.server.closed(within=5)
    own = {task for task in asyncio.all_tasks() - before if "headrace_plugins" in repr(task)}
    assert own == set()


async def test_opened_again_it_has_its_keys_and_looks_after_them(
    login: Login, clock: Clock
) -> None:
    async with opened(jwks=login.jwks) as plugin:
        await plugin.__aexit__()
        async with plugin:
            assert await outcome(plugin, token()) == "ann"
            assert login.fetches == 1
            clock.advance(301)
            await fetched(plugin)
        await plugin.__aenter__()


async def test_keys_outlive_an_outage_for_an_hour_and_no_longer(login: Login, clock: Clock) -> None:
    async with opened(jwks=login.jwks) as plugin:
        shown = token()
        login.ill("rst")
        for _ in range(2):
            assert await outcome(plugin, shown) == "ann"
            clock.advance(1790)
            await fetched(plugin)
        assert await outcome(plugin, shown) == "ann"

        clock.advance(30)
        await fetched(plugin)
        assert await outcome(plugin, shown) == "keys_unavailable"

        login.well()
        clock.advance(11)
        await fetched(plugin)
        assert await outcome(plugin, shown) == "ann"


async def test_a_redirect_is_not_followed(login: Login) -> None:
    async with logging_in() as elsewhere:
        login.ill(status(307, b"", f"location: {elsewhere.jwks}"))
        async with opened(jwks=login.jwks) as plugin:
            assert await outcome(plugin, token()) == "keys_unavailable"

        assert elsewhere.server.requests == []


async def test_what_an_address_asks_for_is_not_in_the_log(
    login: Login, caplog: pytest.LogCaptureFixture
) -> None:
    login.ill("rst")
    async with opened(jwks=f"{login.jwks}?key=sk-secret"):
        assert "no keys from" in caplog.text
        assert "sk-secret" not in caplog.text


async def test_a_fault_of_ours_is_told_and_costs_no_key(
    login: Login, clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(jwks=login.jwks) as plugin:
        with monkeypatch.context() as broken:
            broken.setattr("headrace_plugins.jwt_auth.sources._fetch", None)
            clock.advance(301)
            await until(lambda: bool(caplog.records))
        assert await outcome(plugin, token()) == "ann"

        login.signers = (ED,)
        clock.advance(11)
        await until(lambda: source_of(plugin).keys.knows("ed"))
    [record] = caplog.records
    assert record.levelname == "ERROR"
    assert record.getMessage() == f"renewing the keys of {login.jwks} failed"


# What an issuer says of itself


class Rerouted(Transport):
    """Asks one server, whichever host is meant."""

    name = "rerouted"

    def __init__(self, url: str) -> None:
        self._url = url
        self._inner = best()
        self.meant: list[str] = []

    async def send(self, request: Request, *, connect: float, idle: float) -> Response:
        self.meant.append(request.url)
        request = replace(request, url=self._url + urlsplit(request.url).path)
        return await self._inner.send(request, connect=connect, idle=idle)

    async def aclose(self) -> None:
        await self._inner.aclose()


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        ({"issuer": "https://login.example.com"}, "names another issuer"),
        ({"issuer": "https://evil.example.com/"}, "names another issuer"),
        ({"issuer": None}, "names another issuer"),
        ({"issuer": ISSUER, "jwks_uri": "http://login.example.com/keys"}, "begins with https://"),
        ({"issuer": ISSUER, "jwks_uri": "file:///etc/passwd"}, "begins with https://"),
        ({"issuer": ISSUER, "jwks_uri": "https:///keys"}, "begins with https://"),
        ({"issuer": ISSUER, "jwks_uri": "https://u:p@login.example.com/keys"}, "have no user"),
        ({"issuer": ISSUER, "jwks_uri": ["https://login.example.com/keys"]}, "begins with https"),
        ({"issuer": ISSUER, "jwks_uri": None}, "begins with https://"),
    ],
)
async def test_an_issuer_that_says_wrong_things_of_itself(
    login: Login, caplog: pytest.LogCaptureFixture, says: dict[str, Any], reason: str
) -> None:
    login.says = says
    async with opened(transport=Rerouted(login.server.url)) as plugin:
        assert await outcome(plugin, token()) == "keys_unavailable"

    assert reason in caplog.text
    assert login.fetches == 0


async def test_the_keys_of_an_issuer_may_be_on_another_host(login: Login) -> None:
    login.says = {"issuer": ISSUER, "jwks_uri": "https://keys.example.com/keys"}
    transport = Rerouted(login.server.url)
    async with opened(transport=transport) as plugin:
        assert await outcome(plugin, token()) == "ann"

    well_known = "https://login.example.com/.well-known/openid-configuration"
    assert transport.meant == [well_known, "https://keys.example.com/keys"]


# A file


async def test_a_file_is_read_again_when_it_changes(tmp_path: Path, clock: Clock) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [RS.jwk()]}))
    async with opened(jwks=str(file), transport=Nowhere()) as plugin:
        assert await outcome(plugin, token()) == "ann"

        following = tmp_path / "following.json"
        following.write_text(json.dumps({"keys": [ED.jwk()]}))
        following.replace(file)
        clock.advance(1.1)

        assert await outcome(plugin, token(ED)) == "ann"
        assert await outcome(plugin, token()) == "invalid_token"


LARGE = json.dumps({"keys": [ED.jwk()]}) + " " * 2**20


@pytest.mark.parametrize(
    "content",
    [None, "", "{", '{"keys": []}', LARGE],
    ids=["gone", "empty", "broken", "none", "large"],
)
async def test_a_file_that_is_broken_changes_nothing(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture, content: str | None
) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [RS.jwk()]}))
    async with opened(jwks=str(file), transport=Nowhere()) as plugin:
        if content is None:
            file.unlink()
        else:
            file.write_text(content)
        for _ in range(3):
            clock.advance(1.1)
            await fetched(plugin)

        assert await outcome(plugin, token()) == "ann"
        assert await outcome(plugin, token(ED)) == "invalid_token"
    assert len(caplog.records) == 1


def test_what_has_no_end_is_no_file_of_keys() -> None:
    with pytest.raises(ValueError, match="it is no file of at most"):
        File(name="/dev/zero").read()
