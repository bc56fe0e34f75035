"""`jwt_auth` and several issuers: the same name is somebody else with each of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from headrace import Gateway, sha256
from headrace.testing import Client, Clock, gateway

from .jwt.tokens import SECRET, hmac, token

ONE, TWO = "https://one.example.com/", "https://two.example.com/"
ADMIN = {"authorization": "Bearer 0f3c9a51d7e84b62a5f0c1d29e7b8346"}
KEY = {"authorization": "Bearer ann-key"}
AUTH = f"jwt_auth: {{audience: headrace, secret: '{SECRET}', issuer: ISSUER}}"
APART = f"""any_of:
          - {AUTH.replace("ISSUER", ONE)}
          - {AUTH.replace("ISSUER", TWO)}
          - api_key: {{keys: {{{sha256("ann-key")}: ann}}}}"""
TOGETHER = AUTH.replace("ISSUER", f"['{ONE}', '{TWO}']")
BY_ITSELF = [("caller", {}), ("id", {}), ("key", {}), ("tenant", {}), ("tenant", {"tenant": "red"})]


def served(auth: str = APART, by: str = "caller") -> Gateway:
    """A gateway that keeps answers, and lets everybody ask once."""
    return gateway(
        f"""
    server:
      admin: {{key: 0f3c9a51d7e84b62a5f0c1d29e7b8346}}
      chain:
        - {auth}
        - rate_limit: {{policies: [{{by: {by}, requests: 1/day}}]}}
    callers: {{default: {{}}}}
    upstreams: {{a: mock}}
    routes: {{m: {{chain: [cache], targets: a}}}}
    """,
        open=False,
    )


def of(issuer: str, **claims: Any) -> dict[str, str]:
    """The headers of a client with a token of this issuer."""
    shown = token(header={"alg": "HS256"}, sign=hmac(SECRET), iss=issuer, **claims)
    return {"authorization": f"Bearer {shown}"}


async def asked(app: Gateway, headers: dict[str, str]) -> tuple[int, str | None]:
    """What a question came to, and whether the answer was a kept one."""
    answer = await Client(app, headers=headers).chat(model="m")
    await answer.read()
    return answer.status, answer.headers.get("x-headrace-cache")


async def told(app: Gateway, method: str, path: str, **said: Any) -> Any:
    answer = await Client(app, headers=ADMIN).request(method, path, **said)
    assert answer.status == 200, await answer.read()
    return await answer.json()


@pytest.fixture
async def app(clock: Clock) -> AsyncIterator[Gateway]:
    made = served()
    async with made.lifespan():
        yield made


@pytest.mark.parametrize("auth", [APART, TOGETHER], ids=["two plugins", "one plugin"])
@pytest.mark.parametrize(("by", "claims"), BY_ITSELF)
async def test_the_same_name_with_another_issuer_shares_neither_answers_nor_limits(
    clock: Clock, auth: str, by: str, claims: dict[str, str]
) -> None:
    app = served(auth, by)
    async with app.lifespan():
        assert await asked(app, of(ONE, **claims)) == (200, "miss")
        assert await asked(app, of(TWO, **claims)) == (200, "miss")
        assert (await asked(app, of(ONE, **claims)))[0] == 429


async def test_a_tokens_subject_does_not_use_up_the_limit_of_a_key_of_that_name(
    app: Gateway,
) -> None:
    assert await asked(app, of(ONE)) == (200, "miss")
    assert await asked(app, KEY) == (200, "miss")
    assert (await asked(app, KEY))[0] == 429


async def test_an_operator_finds_everybody_by_a_name(app: Gateway) -> None:
    everybody = [of(ONE), of(TWO), KEY]
    for headers in everybody:
        await asked(app, headers)

    assert len((await told(app, "GET", "/admin/ratelimit/ann"))["limits"]) == 3
    assert (await told(app, "DELETE", "/admin/ratelimit/ann"))["forgotten"] == 3
    assert [await asked(app, headers) for headers in everybody] == [(200, "hit")] * 3
    assert await told(app, "DELETE", "/admin/cache?tenant=ann") == {"cleared": 3}


@pytest.mark.parametrize("name", ["ann", "red"])
async def test_what_is_kept_for_one_of_an_issuer_is_explained_by_the_name(
    app: Gateway, name: str
) -> None:
    await asked(app, of(TWO, sub="ann", tenant="red" if name == "red" else None))
    question = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}

    explained = await told(app, "POST", "/admin/explain", json={"body": question, "tenant": name})

    assert explained["cache"]["status"] == "hit"
