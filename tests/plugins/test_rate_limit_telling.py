"""What `rate_limit` tells: headers on every answer, and refusals that say when to come back."""

from __future__ import annotations

import os
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace import Allowance, Allowances, Call, Next, RateLimited, Reply, UpstreamError
from headrace.testing import (
    Clock,
    Loopback,
    Upstream,
    ask,
    call,
    raw,
    refuses,
    says,
    stalls,
)
from headrace.testing.misbehaviour import answers
from headrace_plugins.rate_limit import RateLimit
from headrace_plugins.rate_limit.telling import lasting

from .rate_limit.gates import ANN, EVE, ROUTES, asked, let_in, limited, policy

CASES = int(os.environ.get("FUZZ_CASES", "100"))
CALLERS = f"""
callers:
  ann: {{limits: {{requests: 600/minute, tokens: 2M/day, concurrent: 20}}}}
  eve: {{limits: {{requests: [2/minute, 5k/day]}}}}
  default: {{}}
{ROUTES}
"""


def told(answer: Any) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if "ratelimit" in name}


async def test_every_answer_says_what_is_left() -> None:
    async with limited("keys", "rate_limit", more=CALLERS) as client:
        headers = told(await asked(client, headers=ANN, max_tokens=483))

    assert re.fullmatch(r"\d+ms", headers.pop("x-ratelimit-reset-requests"))
    assert re.fullmatch(r"\d+s", headers.pop("x-ratelimit-reset-tokens"))
    assert headers == {
        "x-ratelimit-limit-requests": "600",
        "x-ratelimit-remaining-requests": "599",
        "x-ratelimit-limit-tokens": "2000000",
        "x-ratelimit-remaining-tokens": "1999498",
        "ratelimit-policy": '"caller";q=600;w=60, "caller-tokens";q=2000000;w=86400;qu="tokens", '
        '"caller-concurrent";q=20;qu="concurrent-requests"',
        "ratelimit": '"caller";r=599;t=1, "caller-tokens";r=1999498;t=22, "caller-concurrent";r=19',
    }


async def test_of_several_limits_the_one_with_the_least_share_left_is_told() -> None:
    async with limited("keys", "rate_limit", more=CALLERS) as client:
        headers = told(await asked(client, headers=EVE))

    assert headers["x-ratelimit-limit-requests"] == "2"
    assert headers["x-ratelimit-remaining-requests"] == "1"
    assert headers["x-ratelimit-reset-requests"] == "30s"
    assert headers["ratelimit-policy"] == '"caller";q=2;w=60, "caller-requests";q=5000;w=86400'


async def test_several_plugins_speak_with_one_voice() -> None:
    door = "rate_limit: {name: door, policies: [{by: address, requests: 9/minute}]}"
    more = CALLERS.replace(
        "{a: mock,",
        "{a: {forwarder: mock, plugins: [{rate_limit: "
        "{name: inner, policies: [{name: a, by: upstream, requests: 5/minute}]}}]},",
    )
    async with limited(door, "keys", "rate_limit", more=more) as client:
        for remaining in (4, 3):
            headers = told(await asked(client, headers=EVE))

            assert headers["ratelimit"].count(";r=") == 4
            assert f'"a";r={remaining}' in headers["ratelimit"]
            assert '"by-address";q=9;w=60' in headers["ratelimit-policy"]
        refused = told(await asked(client, headers=EVE))

    assert '"caller";r=0' in refused["ratelimit"]
    assert '"by-address";r=6' in refused["ratelimit"]


@pytest.mark.parametrize("limit", ["{}", "{policies: [{by: address, tokens: 9k/minute}]}"])
async def test_an_upstreams_own_limits_are_told_only_where_none_of_ours_speaks(limit: str) -> None:
    lines = ("x-ratelimit-limit-requests: 7", "x-ratelimit-remaining-tokens: 8")
    async with Loopback() as server:
        body = {"choices": [{"index": 0, "message": {"content": "hello"}}]}
        server.script(answers(body, *lines))
        more = f"""
        upstreams: {{a: {{forwarder: {{openai: {{base_url: "{server.url}/v1"}}}}}}}}
        routes: {{m: a}}
        """
        async with limited(f"rate_limit: {limit}", more=more) as client:
            headers = told(await asked(client))

    assert headers.get("x-ratelimit-limit-requests") == ("7" if limit == "{}" else None)
    assert headers["x-ratelimit-remaining-tokens"] == ("8" if limit == "{}" else "7985")


@pytest.mark.parametrize("status", [400, 429, 500])
async def test_errors_say_it_too(status: int) -> None:
    upstream = Upstream()
    upstream.script(refuses(status, headers={"x-ratelimit-limit-requests": "7"}))
    plugin = RateLimit(policies=[policy(by=[], requests="9/minute")])

    with pytest.raises(UpstreamError) as caught:
        await ask(plugin, upstream=upstream, call=call())

    assert caught.value.headers["x-ratelimit-limit-requests"] == "9"
    assert caught.value.headers["ratelimit"] == '"everybody";r=8;t=7'


async def test_those_below_are_told_what_is_left() -> None:
    seen: list[Allowances | None] = []

    async def noting(call: Call, call_next: Next) -> Reply:
        seen.append(call.told(Allowances))
        return await call_next(call)

    outer = RateLimit(name="outer", policies=[policy(by=[], concurrent="3")])
    inner = RateLimit(policies=[policy(by=[], requests="9/minute")])
    await raw(await ask(outer, inner, noting, upstream=Upstream(), call=call()))

    assert seen[0]
    concurrent, requests = seen[0].all
    assert concurrent == Allowance(policy="everybody", counts="concurrent", limit=3, remaining=2)
    assert (requests.remaining, requests.limit, requests.per) == (8, 9, 60)
    assert requests.reset == pytest.approx(6.667, abs=0.1)


# Refusals


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (
            {"name": "caller-like", "requests": "600/minute", "burst": 1},
            "the limit 'caller-like' of 600 requests per minute is used up; come back in 0.1 s",
        ),
        (
            {"requests": "1/5m"},
            "the limit 'everybody' of 1 request per 5m is used up; come back in 5m0s",
        ),
        (
            {"concurrent": 1},
            "the limit 'everybody' of 1 call at the same time is used up; "
            "come back when one of them is over",
        ),
        (
            {"tokens": "6k/minute"},
            "the limit 'everybody' of 6,000 tokens per minute has 981 left; "
            "this call may take 5,019, so come back in 40.4 s",
        ),
    ],
)
async def test_a_refusal_says_which_limit_it_was_and_when_to_come_back(
    limit: dict[str, Any], message: str
) -> None:
    plugin = RateLimit(policies=[policy(by=[], **limit)])
    upstream = Upstream()
    upstream.script(stalls("hel"))
    stream = await ask(plugin, upstream=upstream, call=call(stream=True, max_tokens=4996))

    with pytest.raises(RateLimited) as caught:
        await ask(plugin, upstream=upstream, call=call(max_tokens=5000))

    await stream.aclose()
    error = caught.value
    assert error.message == message
    assert (error.status, error.type, error.code) == (
        429,
        "rate_limit_error",
        "rate_limit_exceeded",
    )


async def test_of_several_limits_that_are_used_up_the_longest_wait_counts() -> None:
    plugin = RateLimit(
        policies=[
            policy(name="short", by=[], requests="1/minute"),
            policy(name="long", by=[], requests="1/hour"),
            policy(name="roomy", by=[], requests="9/minute"),
        ]
    )
    assert await let_in(plugin, call())
    given = call()

    with pytest.raises(RateLimited, match="'long'") as caught:
        await ask(plugin, upstream=Upstream(), call=given)

    assert caught.value.headers["retry-after"] == "3600"
    assert [each.policy for each in given.record.limits] == ["short", "long"]


@pytest.mark.fuzz
@settings(
    max_examples=CASES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sampled_from(["requests", "tokens"]),
    st.integers(1, 10_000),
    st.sampled_from(["100ms", "s", "7s", "minute", "day"]),
    st.integers(1, 20_000),
    st.sampled_from(["retry-after", "retry-after-ms"]),
)
async def test_whoever_comes_back_when_told_is_let_in(
    clock: Clock, counts: str, amount: int, period: str, wanted: int, header: str
) -> None:
    burst = {"burst": 1} if counts == "requests" else {}
    limit = policy(by=[], **{counts: f"{amount}/{period}"}, **burst)
    plugin = RateLimit(policies=[limit])
    upstream = Upstream()
    upstream.script(says("hello", usage=(0, wanted)))
    body = b'{"model":"m","max_tokens":%d}' % wanted
    try:
        for _ in range(100):
            await raw(await ask(plugin, upstream=upstream, call=call(body=body)))
    except RateLimited as error:
        if "retry-after" in error.headers:
            told = int(error.headers[header])
            clock.advance(told / 1000 if header == "retry-after-ms" else told)
            await raw(await ask(plugin, upstream=upstream, call=call(body=body)))


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0, "0ms"),
        (0.0199, "20ms"),
        (0.9999, "1000ms"),
        (1, "1s"),
        (59.2, "1m0s"),
        (360, "6m0s"),
        (3600, "1h0m0s"),
        (90061.5, "25h1m2s"),
    ],
)
def test_times_are_written_as_openai_writes_them(seconds: float, written: str) -> None:
    assert lasting(seconds) == written
