"""`jwt_auth` in a whole gateway: callers by their claims, what clients see, what logs tell."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from headrace import Gateway, sha256
from headrace.testing import Client, Clock, Loopback, gateway
from headrace.testing.client import Response
from headrace.testing.misbehaviour import COMPLETION, answers

from .jwt.login import Login, logging_in
from .jwt.tokens import ED, token

CHAT = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
async def login() -> AsyncIterator[Login]:
    async with logging_in() as login:
        yield login


@pytest.fixture
async def upstream() -> AsyncIterator[Loopback]:
    async with Loopback() as server:
        server.script(answers(COMPLETION))
        yield server


def guarded(login: Login, upstream: Loopback, chain: str = "", callers: str = "") -> Gateway:
    """A gateway that knows tenants, before a real upstream."""
    return gateway(
        f"""
        server:
          chain:
            - {chain or f"jwt_auth: {{issuer: {login.issuer}, audience: headrace}}"}
        callers: {callers or "{default: {}}"}
        upstreams:
          a: {{forwarder: {{openai: {{base_url: "{upstream.url}/v1", api_key: sk-own}}}}}}
        routes: {{fast: a, smart: a}}
        """,
        open=False,
    )


def as_(login: Login, **claims: Any) -> dict[str, str]:
    """The headers of a client with a good token."""
    return {"authorization": f"Bearer {token(iss=login.issuer, **claims)}"}


async def asked(app: Gateway, headers: dict[str, str], model: str = "fast") -> Response:
    return await Client(app, headers=headers).chat(model=model)


async def code_of(response: Response) -> tuple[int, str | None]:
    return response.status, (await response.json()).get("error", {}).get("code")


async def test_whose_token_is_valid_is_answered_and_the_token_goes_no_further(
    login: Login, upstream: Loopback
) -> None:
    app = guarded(login, upstream)
    async with app.lifespan():
        headers = as_(login)
        answer = await asked(app, headers)
        assert (await answer.json())["choices"][0]["message"]["content"] == "Hello world"
        listed = await Client(app, headers=headers).get("/v1/models")
        assert listed.status == 200

    request = upstream.requests[0]
    assert request.header("authorization") == "Bearer sk-own"
    shown = headers["authorization"].removeprefix("Bearer ")
    assert shown not in str(upstream.requests)


async def test_entries_of_callers_match_what_a_token_says(login: Login, upstream: Loopback) -> None:
    app = guarded(
        login,
        upstream,
        callers="{payments: {match: {tenant: payments}, models: [fast]},"
        " staff: {match: {groups: [admins, ops], email_verified: true}}}",
    )
    async with app.lifespan():
        payments = as_(login, sub="billing-1", tenant="payments")
        staff = as_(login, groups=["dev", "ops"], email_verified=True)
        outcomes = [
            await code_of(await asked(app, headers, model))
            for headers, model in [
                (payments, "fast"),
                (payments, "smart"),
                (staff, "smart"),
                (as_(login, groups=["ops"], email_verified=False), "fast"),
                (as_(login, tenant="Payments"), "fast"),
                (as_(login, sub="payments"), "fast"),
            ]
        ]

    assert outcomes == [
        (200, None),
        (404, "model_not_found"),
        (200, None),
        (403, "caller_not_listed"),
        (403, "caller_not_listed"),
        (403, "caller_not_listed"),
    ]


async def test_the_access_log_tells_who_asked_and_why_others_were_refused(
    login: Login, upstream: Loopback, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    app = guarded(login, upstream)
    shown = [
        as_(login, sub="ann"),
        as_(login, aud="other"),
        as_(login, exp=1),
        as_(login, header={"kid": "x\r\n{}"}),
        {"authorization": "Bearer a.b.c.d.e"},
        {},
    ]
    async with app.lifespan():
        answers = [await asked(app, headers) for headers in shown]
        bodies = [(await answer.read()).decode() for answer in answers]

    rows = [json.loads(r.getMessage()) for r in caplog.records if r.name == "headrace.access"]
    assert rows[0]["caller"] == "ann"
    assert [row["status"] for row in rows] == [200, 401, 401, 401, 401, 401]
    assert [(row["code"], row["said"]) for row in rows[1:5]] == [
        ("invalid_token", "the token: its audience is not the one that is configured"),
        ("invalid_token", "the token: it has expired"),
        ("invalid_token", "the token: not signed with any key known here"),
        ("invalid_token", "the token: it is not three parts of base64url with dots between"),
    ]
    assert rows[5]["code"] == "missing_api_key"
    asks = [answer.headers["www-authenticate"] for answer in answers[1:]]
    assert asks == ['Bearer error="invalid_token"'] * 4 + ["Bearer"]
    told = [json.loads(body)["error"]["message"] for body in bodies[1:5]]
    wrong = "this token is not valid here"
    assert told == [wrong, "this token has expired", wrong, wrong]
    said = caplog.text + "".join(bodies)
    for headers in shown[:4]:
        for part in headers["authorization"].removeprefix("Bearer ").split("."):
            assert part not in said


async def test_without_keys_it_is_a_503_that_says_when_to_come_back(
    login: Login, upstream: Loopback, clock: Clock
) -> None:
    login.ill("rst")
    app = guarded(login, upstream)
    async with app.lifespan():
        headers = as_(login)
        refused = await asked(app, headers)
        assert await code_of(refused) == (503, "keys_unavailable")
        assert 1 <= int(refused.headers["retry-after"]) <= 10
        assert "www-authenticate" not in refused.headers

        login.well()
        clock.advance(10.1)
        assert (await asked(app, headers)).status == 200


async def test_a_key_or_a_token_will_do(login: Login, upstream: Loopback) -> None:
    keys = f"api_key: {{keys: {{{sha256('sk-ann')}: ann}}}}"
    tokens = f"jwt_auth: {{issuer: {login.issuer}, audience: headrace}}"
    app = guarded(login, upstream, chain=f"any_of: [{keys}, {tokens}]")
    async with app.lifespan():
        outcomes = [
            (await asked(app, headers)).status
            for headers in (
                {"x-api-key": "sk-ann"},
                as_(login),
                {"x-api-key": "sk-bob"},
                as_(login, signer=ED),
            )
        ]

    assert outcomes == [200, 200, 401, 401]


async def test_a_gateway_with_it_is_closed(login: Login, upstream: Loopback) -> None:
    app = guarded(login, upstream)

    assert app.plan.authenticates
    async with app.lifespan():
        assert (await Client(app).get("/v1/models")).status == 401
        assert (await Client(app).post("/v1/files", body=b"x", headers=as_(login))).status == 404
        assert (await Client(app).get("/healthz")).status == 200
