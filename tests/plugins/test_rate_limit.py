"""`rate_limit`: whose calls are counted together, and what becomes of those that are too many."""

from __future__ import annotations

import pytest

from headrace import Caller, ConfigError, Memory
from headrace.config.document import parse
from headrace.config.outline import outline
from headrace.explain import plan_of
from headrace.testing import Clock, Upstream, ask, call, down, gateway, says, silent, stalls
from headrace_plugins.rate_limit import RateLimit

from .rate_limit.gates import (
    ANN,
    BOB,
    EVE,
    ROUTES,
    asked,
    let_in,
    limited,
    policy,
    statuses,
)

CALLERS = f"""
callers:
  default: {{limits: {{requests: 2/minute}}}}
  red: {{match: {{tenant: red}}, limits: {{requests: 3/minute}}}}
{ROUTES}
"""


# Whose calls


async def test_an_entry_of_callers_shares_its_limits_and_the_default_is_for_each() -> None:
    async with limited("keys", "rate_limit", more=CALLERS) as client:
        assert await statuses(client, 2, headers=ANN) == [200, 200]
        assert await statuses(client, 2, headers=BOB) == [200, 429]
        assert await statuses(client, 3, headers=EVE) == [200, 200, 429]


async def test_who_has_no_limits_is_not_limited() -> None:
    async with limited("keys", "rate_limit") as client:
        assert set(await statuses(client, 50, headers=ANN)) == {200}


async def test_what_callers_are_granted_counts_once_however_many_plugins_there_are() -> None:
    chain = ("rate_limit: {name: door}", "keys", "rate_limit", "rate_limit: {name: again}")
    async with limited(*chain, more=CALLERS) as client:
        assert await statuses(client, 4, headers=ANN) == [200, 200, 200, 429]


async def test_a_limit_by_address_stands_before_those_who_guess_keys() -> None:
    door = "rate_limit: {name: door, policies: [{by: address, requests: 3/minute}]}"
    async with limited(door, "keys") as client:
        assert await statuses(client, 4, headers={"x-api-key": "a guess"}) == [401, 401, 401, 429]
        assert (await client.get("/v1/me", headers=ANN)).status == 429, "a guess at a key, too"
        assert await statuses(client, 1, headers=ANN, address="10.0.0.1") == [200]


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("a socket", "another", False),
    ],
)
async def test_who_has_one_address_of_a_network_has_all_of_them(
    one: str, other: str, together: bool
) -> None:
    door = "rate_limit: {policies: [{by: address, requests: 1/minute}]}"
    async with limited(door) as client:
        assert await statuses(client, 1, address=one) == [200]
        assert await statuses(client, 1, address=other) == [429 if together else 200]


@pytest.mark.parametrize(
    ("by", "ann", "bob", "eve"),
    [
        ("caller", [200, 429], [200, 429], [200, 429]),
        ("id", [200, 429], [200, 429], [200, 429]),
        ("key", [200, 429], [200, 429], [200, 429]),
        ("tenant", [200, 429], [429, 429], [200, 429]),
        ("[]", [200, 429], [429, 429], [429, 429]),
        ("[tenant, caller]", [200, 429], [200, 429], [200, 429]),
    ],
)
async def test_calls_that_have_something_in_common_are_counted_together(
    by: str, ann: list[int], bob: list[int], eve: list[int]
) -> None:
    limit = f"rate_limit: {{policies: [{{by: {by}, requests: 1/minute}}]}}"
    async with limited("keys", limit) as client:
        assert await statuses(client, 2, headers=ANN) == ann
        assert await statuses(client, 2, headers=BOB) == bob
        assert await statuses(client, 2, headers=EVE) == eve


async def test_a_caller_that_is_not_known_yet_goes_by_its_address() -> None:
    limit = "rate_limit: {policies: [{by: tenant, requests: 1/minute}]}"
    async with limited(limit, "keys") as client:
        assert await statuses(client, 2, headers=ANN) == [200, 429]
        assert await statuses(client, 1, headers=ANN, address="10.0.0.1") == [200]


async def test_nobody_can_be_called_like_somebody_elses_address() -> None:
    limit = RateLimit(policies=[policy(by="caller", requests="1/day")])
    unknown = call()
    unknown.record.client = "10.0.0.1"
    names = ("10.0.0.1", "address", "('address', '10.0.0.1')", "{x}", "a" * 10_000, "\ud800")

    assert await let_in(limit, unknown)
    for name in names:
        assert await let_in(limit, call().replace(caller=Caller(name)))
        assert not await let_in(limit, call().replace(caller=Caller(name)))


# Which model


async def test_each_model_that_has_a_route_has_its_own_limit() -> None:
    limit = "rate_limit: {policies: [{by: model, requests: 2/minute}]}"
    async with limited(limit) as client:
        assert await statuses(client, 3, model="m") == [200, 200, 429]
        assert await statuses(client, 3, model="n") == [200, 200, 429]


async def test_names_that_a_client_thinks_up_have_one_limit_together() -> None:
    limit = "rate_limit: {policies: [{by: [address, model], requests: 3/minute}]}"
    async with limited(limit) as client:
        found = [(await asked(client, model=f"made-up-{n}")).status for n in range(5)]
        direct = [(await asked(client, model=f"b/made-up-{n}")).status for n in range(5)]
        await asked(client, model="m")

    assert found == [200, 200, 200, 429, 429]
    assert direct == [200, 200, 200, 429, 429]


async def test_behind_the_router_a_model_is_the_targets() -> None:
    limit = "rate_limit: {policies: [{by: model, requests: 2/minute}]}"
    async with limited(
        "retry",
        more=f"""
        upstreams: {{a: {{forwarder: mock, plugins: [{limit}]}}}}
        routes: {{fast: a/small, cheap: a/small, good: a/large, "*": a}}
        """,
    ) as client:
        found = {
            name: await statuses(client, 2, model=name)
            for name in ("fast", "cheap", "good", "a/x", "a/y", "x", "y")
        }

    assert found == {
        "fast": [200, 200],
        "cheap": [429, 429],
        "good": [200, 200],
        "a/x": [200, 200],
        "a/y": [429, 429],
        "x": [200, 200],
        "y": [429, 429],
    }


async def test_paths_that_are_passed_through_count_by_their_route() -> None:
    limit = "rate_limit: {policies: [{by: route, requests: 2/minute}]}"
    more = "upstreams: {a: mock}\nroutes: {/v1/files*: a, m: a}\n"
    upstream = Upstream()
    async with limited(limit, more=more, upstream=upstream) as client:
        found = [(await client.post(f"/v1/files/{n}", json={})).status for n in range(3)]
        assert await statuses(client, 1) == [200]

    assert found == [200, 200, 429]


# Where it stands


async def test_an_upstream_that_has_enough_leaves_the_call_to_the_next_one() -> None:
    limit = "rate_limit: {policies: [{by: upstream, requests: 2/minute}]}"
    more = f"""
    upstreams: {{a: {{forwarder: mock, plugins: [{limit}]}}, b: mock}}
    routes: {{m: {{chain: [fallback], targets: [a, b]}}, n: a}}
    """
    async with limited("keys", more=more) as client:
        told = [await asked(client, headers=ANN) for _ in range(3)]
        alone = await asked(client, headers=ANN, model="n")

    assert [answer.headers["x-headrace-upstream"] for answer in told] == ["a", "a", "b"]
    assert (alone.status, alone.headers["retry-after"]) == (429, "30")


async def test_what_is_asked_again_counts_again() -> None:
    upstream = Upstream()
    more = """
    upstreams:
      a:
        forwarder: mock
        plugins:
          - retry: {attempts: 3, wait: 1ms}
          - rate_limit: {policies: [{by: [], requests: 2/day}]}
    routes: {m: a}
    """
    upstream.script(down())
    async with limited("keys", more=more, upstream=upstream) as client:
        assert await statuses(client, 1, headers=ANN) == [429]

    assert len(upstream.asked) == 2


async def test_calls_of_one_limit_are_refused_without_a_loss_to_others() -> None:
    limit = "rate_limit: {policies: [{by: caller, requests: 2/day}, {by: [], requests: 5/day}]}"
    async with limited("keys", limit) as client:
        assert await statuses(client, 9, headers=ANN) == [200] * 2 + [429] * 7
        assert await statuses(client, 3, headers=BOB) == [200, 200, 429]
        assert await statuses(client, 2, headers=EVE) == [200, 429]


async def test_time_fills_what_was_used(clock: Clock) -> None:
    limit = "rate_limit: {policies: [{by: [], requests: 60/minute, burst: 2}]}"
    async with limited(limit) as client:
        assert await statuses(client, 3) == [200, 200, 429]
        clock.advance(1)
        assert await statuses(client, 2) == [200, 429]
        clock.advance(600)
        assert await statuses(client, 3) == [200, 200, 429]


async def test_several_rates_hold_together(clock: Clock) -> None:
    limit = "rate_limit: {policies: [{by: [], requests: [2/s, 3/day]}]}"
    async with limited(limit) as client:
        assert await statuses(client, 3) == [200, 200, 429]
        clock.advance(1)
        assert await statuses(client, 2) == [200, 429]
        clock.advance(2)
        assert await statuses(client, 1) == [429]


async def test_a_clock_that_goes_back_locks_nobody_out(clock: Clock) -> None:
    limit = "rate_limit: {policies: [{by: [], requests: 60/minute}]}"
    async with limited(limit) as client:
        clock.advance(3600)
        assert set(await statuses(client, 60)) == {200}

        clock.advance(-600)
        assert await statuses(client, 2) == [429, 429]
        clock.advance(1)
        assert await statuses(client, 2) == [200, 429]


# At the same time


async def test_a_slot_is_taken_until_the_last_byte() -> None:
    upstream = Upstream()
    upstream.script(stalls("hel"), says("hello"))
    limit = "rate_limit: {policies: [{by: [], concurrent: 1}]}"
    async with limited(limit, upstream=upstream) as client:
        stream = await client.chat(stream=True)
        assert await statuses(client, 2) == [429, 429]

        await stream.leave()

        assert await statuses(client, 2) == [200, 200]


async def test_a_slot_is_free_when_the_client_knows_that_its_call_is_over() -> None:
    limit = "rate_limit: {policies: [{by: [], concurrent: 1}]}"
    async with limited(limit) as client:
        for _ in range(20):
            visit = client.ask(
                "POST", "/v1/chat/completions", json={"model": "m", "messages": [], "stream": True}
            )
            status, _ = await visit.start()
            assert status == 200
            async for _ in visit.chunks():
                pass


async def test_a_client_that_leaves_while_it_waits_frees_its_slot() -> None:
    upstream = Upstream()
    upstream.script(silent(), says("hello"))
    limit = "rate_limit: {policies: [{by: [], concurrent: 1}]}"
    async with limited(limit, upstream=upstream) as client:
        visit = client.ask("POST", "/v1/chat/completions", json={"model": "m", "messages": []})
        await upstream.began.wait()
        assert await statuses(client, 1) == [429]

        visit.leave()
        await visit.task

        assert await statuses(client, 1) == [200]


# Only looking


async def test_asking_what_is_left_takes_nothing() -> None:
    async with limited("keys", "rate_limit", more=CALLERS) as client:
        await asked(client, headers=ANN)
        told = [await (await client.get("/v1/me", headers=ANN)).json() for _ in range(9)]

        [limit] = told[-1]["limits"]
        assert limit.pop("reset") == pytest.approx(20, abs=1)
        assert limit == {
            "policy": "caller",
            "counts": "requests",
            "limit": 3,
            "per": 60.0,
            "remaining": 2,
        }
        assert await statuses(client, 3, headers=ANN) == [200, 200, 429]


async def test_a_dry_run_refuses_nobody_and_writes_down_whom_it_would_have() -> None:
    made = RateLimit(dry_run=True, policies=[policy(by=(), requests="2/day", concurrent="9")])
    upstream = Upstream()
    outcomes = []
    for _ in range(4):
        given = call()
        reply = await ask(made, upstream=upstream, call=given)
        assert not [name for name in reply.headers if "ratelimit" in name]
        await reply.aclose()
        [limited] = given.record.limits
        assert limited.dry_run
        outcomes.append(limited.outcome)

    assert outcomes == ["admitted", "admitted", "refused", "refused"]
    assert len(upstream.asked) == 4


# Over a reload


async def test_another_configuration_counts_on_where_the_last_one_was() -> None:
    store = Memory()
    before = RateLimit(store=store, policies=[policy(name="all", by=(), requests="5/day")])
    after = RateLimit(store=store, policies=[policy(name="all", by=(), requests="7/day")])

    assert [await let_in(before, call()) for _ in range(4)] == [True] * 4
    assert [await let_in(after, call()) for _ in range(2)] == [True, False]


# What makes no sense


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("policies: [{by: address}]", "policies must limit something"),
        ("policies: [{by: adress, requests: 1/s}]", "policies must be 'caller', 'id'"),
        ("policies: [{tokens: 1/s, burst: 3}]", "need requests beside a burst"),
        ("policies: [{requests: 1/s, burst: 0}]", "a burst of 1 or more"),
        ("policies: [{requests: 1/s, name: caller}]", "other than 'caller'"),
        ("policies: [{requests: 1/s, name: 'a b'}]", "need names of at most 64 letters"),
        ("policies: [{requests: 1/s, requsts: 2/s}]", "has no option 'requsts'"),
        ("policies: [{requests: 1/s}, {requests: 2/m}]", "2 policies are called 'by-caller'"),
        ("policies: [{tokens: 1/s, strategy: fixed_window}]", "count requests alone"),
        ("policies: [{requests: 1/10ms, strategy: fixed_window}]", "need whole seconds"),
        ("name: '{x}'", "name must be at most 64 letters"),
        ("replicas: 0", "replicas must be 1 or more"),
        ("lease: 0", "lease more than 0"),
    ],
)
def test_what_makes_no_sense_is_a_problem(options: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        gateway(f"server: {{chain: [{{rate_limit: {{{options}}}}}]}}\n{ROUTES}")


def test_policies_are_explained_as_they_are_written() -> None:
    limit = "rate_limit: {policies: [{by: address, requests: 20/s}]}"
    written = f"server: {{chain: [{{{limit}}}]}}\n{ROUTES}"

    told = outline(plan_of(parse(written, "gateway.yaml", {})))

    explained = {"policies": [{"requests": "20/second", "by": "address"}]}
    assert told["chain"] == [{"rate_limit": explained}]
