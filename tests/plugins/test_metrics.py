"""`metrics`: what Prometheus is told of calls, by whom it may be read, and that it stays small."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import Scope

from headrace import (
    Attempt,
    Cached,
    Caller,
    ConfigError,
    Gateway,
    Limited,
    Raced,
    Record,
    Target,
    UpstreamError,
    Usage,
    __version__,
)
from headrace.prices import Price
from headrace.testing import Client, Upstream, breaks, down, gateway, refuses, says, stalls
from headrace_plugins.observers.metrics import Metrics
from headrace_plugins.observers.metrics.now import Now
from headrace_plugins.observers.metrics.table import TABLE

FILE = """
server: {observers: [metrics]}
upstreams: {a: mock, b: mock}
routes:
  fast: {chain: [fallback], targets: [a/small, b/large]}
  "*": a/small
"""
PAGE = Path(__file__).parents[2] / "docs/observers/metrics.md"
HERE = ("127.0.0.1", 5)
ELSEWHERE = ("10.0.0.7", 5)


class Told:
    """What a page says: every sample, by name and labels."""

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self.samples = [sample for family in self.families.values() for sample in family.samples]

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of all series of that name that have these labels."""
        found = [
            sample.value
            for sample in self.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        return sum(found)

    def values(self, label: str) -> set[str]:
        """All values that a label has anywhere."""
        return {sample.labels[label] for sample in self.samples if label in sample.labels}


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


@asynccontextmanager
async def running(text: str = FILE, **options: Any) -> AsyncIterator[Client]:
    made = gateway(text, **options)
    async with made.lifespan():
        yield Client(made)


async def scraped(client: Client, **options: Any) -> Told:
    response = await client.get("/metrics", **options)
    assert response.status == 200
    return Told((await response.read()).decode())


async def told_of(*records: Record, **options: Any) -> Told:
    """What an observer says that was told of these records alone."""
    metrics = Metrics(**options)
    async with metrics:
        for record in records:
            metrics(record)
        return Told(metrics._meters.told(Now.of(metrics.vitals)).decode())


def record(**options: Any) -> Record:
    return Record(**{"id": "req_1", "method": "POST", "path": "/v1/chat/completions", **options})


# What is counted


async def test_a_request_is_counted_by_what_it_was_and_how_it_ended(upstream: Upstream) -> None:
    upstream.script(says("hello"))

    async with running(upstream=upstream) as client:
        await (await client.chat(model="fast")).read()
        await (await client.chat(model="fast", stream=True)).read()
        await (await client.chat(model="")).read()
        told = await scraped(client)

    fast = {"operation": "chat", "route": "fast", "caller": "none"}
    assert told("headrace_requests_total", **fast, outcome="ok", status="200") == 2
    assert told("headrace_requests_total", outcome="refused", status="400", route="none") == 1
    assert told("headrace_request_seconds_count", upstream="a") == 2
    assert told("headrace_request_seconds_count", upstream="none") == 1
    assert told("headrace_first_output_seconds_count", route="fast", upstream="a") == 1
    assert told("headrace_overhead_seconds_count") == 3


async def test_what_broke_and_who_left_is_told_apart(upstream: Upstream) -> None:
    upstream.script(breaks("twelve chars"), stalls("twelve chars"))

    async with running(upstream=upstream) as client:
        await (await client.chat(stream=True)).read()
        leaving = await client.chat(stream=True)
        await anext(leaving.chunks())
        await leaving.leave()
        told = await scraped(client)

    assert told("headrace_requests_total", outcome="incomplete", status="200") == 1
    assert told("headrace_requests_total", outcome="client_closed", status="200") == 1
    assert told("headrace_attempts_total", outcome="incomplete", code="upstream_truncated") == 1
    assert told("headrace_attempts_total", outcome="cancelled", code="none") == 1
    assert told("headrace_tokens_total", kind="output", estimated="true", route="*") == 6
    assert told("headrace_output_token_seconds_count") == 0


async def test_every_attempt_is_counted_and_so_is_the_one_instead(upstream: Upstream) -> None:
    upstream.script(down(), says("hello"))

    async with running(upstream=upstream) as client:
        await (await client.chat(model="fast")).read()
        told = await scraped(client)

    failed = {"upstream": "a", "outcome": "failed"}
    assert told("headrace_attempts_total", **failed, code="connect_failed") == 1
    assert told("headrace_attempts_total", upstream="b", outcome="ok", code="none") == 1
    assert told("headrace_attempt_seconds_count", **failed) == 1
    assert told("ai_provider_requests_total", **failed) == 1
    assert told("ai_provider_latency_seconds_count", upstream="a") == 0
    assert told("ai_provider_latency_seconds_count", upstream="b") == 1
    assert told("ai_routing_fallback_total", failed="a", upstream="b") == 1
    assert told("headrace_requests_total", outcome="ok") == 1


@pytest.mark.parametrize(
    ("attempts", "retries", "fallbacks"),
    [
        ([("a", 0, 1, "failed"), ("a", 1, 2, "ok")], 1, 0),
        ([("a", 0, 1, "failed"), ("a", 1, 2, "failed"), ("b", 2, 3, "ok")], 1, 1),
        ([("a", 0, 1, "failed"), ("b", 1, 2, "failed"), ("b", 2, 3, "ok")], 1, 1),
        ([("a", 0, 1, "failed"), ("b", 1, 2, "failed"), ("a", 2, 3, "ok")], 0, 2),
        ([("a", 0, 2, "failed"), ("b", 0, 3, "ok")], 0, 0),
    ],
    ids=["again", "again, then another", "another, again", "there and back", "side by side"],
)
async def test_a_fallback_is_another_target_after_one_has_failed_and_a_retry_is_the_same(
    attempts: list[Any], retries: int, fallbacks: int
) -> None:
    asked = record()
    for name, started, ended, outcome in attempts:
        asked.attempts.append(
            Attempt(target=Target(name), started=started, ended=ended, outcome=outcome)
        )

    told = await told_of(asked)

    assert told("headrace_attempts_total") == len(attempts)
    assert told("ai_routing_fallback_total") == fallbacks
    assert told("headrace_retries_total") == retries


async def test_tokens_are_those_that_are_known(upstream: Upstream) -> None:
    upstream.script(says("hello", usage=(7, 0)))

    async with running(upstream=upstream) as client:
        await (await client.chat(model="fast")).read()
        told = await scraped(client)

    counted = {"upstream": "a", "route": "fast", "caller": "none", "estimated": "false"}
    assert told("headrace_tokens_total", kind="input", **counted) == 7
    assert told("headrace_tokens_total", kind="output", **counted) == 0
    assert told.values("kind") == {"input", "output"}


async def test_tokens_of_all_attempts_count() -> None:
    raced = record()
    for name, tokens in (("a", 10), ("b", 5)):
        usage = Usage(input=tokens, output=-3, cached=2, reasoning=1)
        raced.attempts.append(Attempt(target=Target(name), usage=usage, outcome="ok"))
    raced.answered = raced.attempts[0]

    told = await told_of(raced)

    assert told("headrace_tokens_total", kind="input") == 15
    assert told("headrace_tokens_total", kind="cached", upstream="b") == 2
    assert told("headrace_tokens_total", kind="output") == 0
    assert told("headrace_requests_total") == 1


async def test_times_are_seconds_between_what_the_record_says() -> None:
    streamed = record(started=100.0, ended=109.0, first_byte=102.5, stream=True, route="fast")
    streamed.answered = Attempt(
        target=Target("a"),
        started=100.5,
        first_output=102.0,
        ended=108.0,
        outcome="ok",
        usage=Usage(output=60),
    )
    streamed.attempts.append(streamed.answered)

    told = await told_of(streamed)

    assert told("headrace_request_seconds_sum", upstream="a", route="fast") == 9.0
    assert told("headrace_first_output_seconds_sum", upstream="a") == 2.0
    assert told("headrace_attempt_seconds_sum", upstream="a", outcome="ok") == 7.5
    assert told("headrace_output_token_seconds_sum", route="fast") == pytest.approx(0.1)
    assert told("headrace_overhead_seconds_sum") == 1.0


async def test_the_ledger_of_limits_closes() -> None:
    calls = [record() for _ in range(3)]
    calls[0].limits.append(
        Limited(policy="teams", outcome="admitted", reserved=100, settled=40, released=60)
    )
    calls[1].limits.append(
        Limited(policy="teams", outcome="admitted", reserved=10, settled=10, beyond=25)
    )
    calls[2].limits.append(Limited(policy="teams", outcome="refused"))

    told = await told_of(*calls)

    tokens = {
        state: told("headrace_limit_tokens_total", policy="teams", state=state)
        for state in ("reserved", "settled", "released", "beyond")
    }
    assert tokens == {"reserved": 110, "settled": 50, "released": 60, "beyond": 25}
    assert tokens["reserved"] == tokens["settled"] + tokens["released"]
    assert told("headrace_limits_total", policy="teams", outcome="admitted") == 2


async def test_a_limit_that_only_counts_refuses_nobody() -> None:
    met = record(caller=Caller("payments", listed=True))
    met.limits += [
        Limited(policy="hourly", outcome="refused", dry_run=True),
        Limited(policy="daily", outcome="refused"),
        Limited(policy="monthly", outcome="unchecked", local=True),
    ]

    told = await told_of(met)

    assert told("headrace_limits_total", policy="hourly", outcome="refused", dry_run="true") == 1
    assert told("headrace_limits_total", policy="monthly", outcome="unchecked", local="true") == 1
    assert told("ai_ratelimit_exceeded_total", policy="daily", caller="payments") == 1
    assert told("ai_ratelimit_exceeded_total") == 1


async def test_an_answer_from_a_cache_is_a_hit_and_a_shared_one_is_none() -> None:
    met = [Cached(status="hit"), Cached(status="stale"), Cached(status="shared")]

    told = await told_of(
        *(record(route="r", cache=cached) for cached in (*met, Cached(status="miss")))
    )

    assert told("headrace_cache_total", route="r") == 4
    assert told("headrace_cache_total", status="shared") == 1
    assert told("ai_cache_hits_total", route="r") == 2


async def test_what_a_call_has_cost_is_counted_where_it_is_known() -> None:
    called = record(route="r", caller=Caller("payments", listed=True))
    for price, used in (
        (Price(input=2_000_000, output=1_000_000), Usage(input=3, output=4)),
        (Price(input=2_000_000, output=1_000_000), Usage(output=4, estimated=True)),
        (Price(input=1), Usage(input=3, output=4)),
        (None, Usage(input=3, output=4)),
    ):
        attempt = Attempt(target=Target("a"), outcome="ok", price=price, usage=used)
        called.attempts.append(attempt)

    told = await told_of(called)

    labels = {"upstream": "a", "route": "r", "caller": "payments"}
    assert told("headrace_cost_dollars_total", **labels, estimated="false") == 10
    assert told("headrace_cost_dollars_total", **labels, estimated="true") == 4


async def test_a_cost_that_is_not_known_is_no_zero() -> None:
    called = record()
    called.attempts.append(Attempt(target=Target("a"), outcome="ok", usage=Usage(input=3)))

    told = await told_of(called)

    assert told.families["headrace_cost_dollars"].samples == []


async def test_only_tenants_that_are_named_are_told_apart() -> None:
    called = []
    for tenant in ("acme", "acme", "junk-1", "junk-2", None):
        used = Usage(input=3, output=2, cached=1)
        attempt = Attempt(target=Target("a"), outcome="ok", usage=used)
        attempt.price = Price(input=1_000_000, output=1_000_000)
        called.append(record(caller=Caller("ann", tenant=tenant), attempts=[attempt]))
        called[-1].close("ok")

    told = await told_of(*called, tenants=["acme", "idle"])
    untold = await told_of(*called)

    assert told.values("tenant") == {"acme", "other"}
    assert told("headrace_tenant_requests_total", tenant="acme", outcome="ok") == 2
    assert told("headrace_tenant_tokens_total", tenant="other", kind="input") == 6
    assert told("headrace_tenant_cost_dollars_total", tenant="acme") == 10
    assert untold.values("tenant") == set()


async def test_races_are_counted_by_who_won() -> None:
    calls = [record() for _ in range(3)]
    calls[0].races.append(Raced(plugin="race", winner=Target("a"), of=3, margin=0.25))
    calls[1].races.append(Raced(plugin="race", winner=Target("a"), of=2, margin=0.5))
    calls[2].races.append(Raced(plugin="hedge", winner=Target("b"), of=2))

    told = await told_of(*calls)

    assert told("headrace_races_total", plugin="race", upstream="a") == 2
    assert told("headrace_races_total", plugin="hedge", upstream="b") == 1
    assert told("headrace_race_margin_seconds_sum", plugin="race") == 0.75
    assert told("headrace_race_margin_seconds_count", plugin="hedge") == 0


async def test_a_target_is_closed_as_long_as_nothing_is_sent_there(upstream: Upstream) -> None:
    made = gateway(FILE, upstream=upstream)
    async with made.lifespan():
        client, rests = Client(made), made.vitals.rests
        rests.rest(("a", "small"), 60, why="it failed", closed=True)
        rests.rest(("b", None), 60, why="somebody said so", closed=True)
        rests.rest(("b", "large"), 60, why="it asked to wait")
        await (await client.chat(model="fast")).read()
        during = await scraped(client)
        rests.resume(("a", "small"))
        after = await scraped(client)

    closed = [sample.labels for sample in during.families["headrace_target_resting"].samples]
    assert closed == [{"upstream": "a", "model": "small"}, {"upstream": "b", "model": "*"}]
    assert during("headrace_passed_over_total") == 2
    assert after("headrace_target_resting") == 1


async def test_calls_are_in_flight_until_their_last_byte(upstream: Upstream) -> None:
    upstream.script(stalls("twelve chars"))

    async with running(upstream=upstream) as client:
        streaming = await client.chat(stream=True)
        await anext(streaming.chunks())
        during = await scraped(client)
        await streaming.leave()
        after = await scraped(client)

    assert during("headrace_calls_in_flight") == 1
    assert after("headrace_calls_in_flight") == 0


# Another configuration


@asynccontextmanager
async def reloading(tmp_path: Path) -> AsyncIterator[tuple[Gateway, Path]]:
    """A gateway and the file it can read again."""
    file = tmp_path / "gateway.yaml"
    file.write_text(FILE)
    made = Gateway.load(file, open=True)
    async with made.lifespan():
        yield made, file


async def test_a_configuration_is_told_as_it_is_now(tmp_path: Path) -> None:
    async with reloading(tmp_path) as (made, file):
        before = await scraped(Client(made))
        file.write_text(FILE.replace("small", "smaller"))
        await made.reload()
        after = await scraped(Client(made))
        file.write_text("routes: {m: nobody}")
        with pytest.raises(ConfigError):
            await made.reload()
        refused = await scraped(Client(made))

    assert before("headrace_reloads_total", outcome="ok") == 0
    assert before.values("outcome") == {"ok", "failed"}
    assert before.values("hash") != after.values("hash")
    assert after.values("hash") == refused.values("hash") == {made.plan.hash}
    assert after("headrace_config_info") == 1
    assert refused("headrace_reloads_total", outcome="ok") == 1
    assert refused("headrace_reloads_total", outcome="failed") == 1
    name = "headrace_config_last_reload"
    assert [told(f"{name}_successful") for told in (before, after, refused)] == [1, 1, 0]
    times = [told(f"{name}_timestamp_seconds") for told in (before, after, refused)]
    assert times[0] < times[1] == times[2]


async def test_numbers_go_on_when_the_configuration_changes(tmp_path: Path) -> None:
    async with reloading(tmp_path) as (made, file):
        await (await Client(made).chat()).read()
        file.write_text(FILE.replace("small", "smaller"))
        await made.reload()
        await (await Client(made).chat()).read()
        same = await scraped(Client(made))
        file.write_text(FILE.replace("[metrics]", "[metrics: {open: true}]"))
        await made.reload()
        await (await Client(made).chat()).read()
        other = await scraped(Client(made))

    assert same("headrace_requests_total", outcome="ok") == 2
    assert other("headrace_requests_total", outcome="ok") == 3
    assert other("headrace_reloads_total", outcome="ok") == 2


async def test_the_version_and_the_store_are_told_as_they_are_now(upstream: Upstream) -> None:
    made = gateway(FILE, upstream=upstream)

    async with made.lifespan():
        before = await scraped(Client(made))
        made.plan.store.fault = "it is gone"
        after = await scraped(Client(made))

    assert before("headrace_build_info", version=__version__) == 1
    assert (before("headrace_store_up"), after("headrace_store_up")) == (1, 0)


# Labels


BUSY = """
server: {observers: [metrics]}
upstreams: {a: mock, b: mock, c: mock}
callers:
  red: {match: {id: red}}
  blue: {match: {id: blue}}
  green: {match: {id: green}}
  default: {}
routes:
  fast: {chain: [fallback], targets: [a/small, b/large]}
  careful: {chain: [fallback], targets: [b/large, c/large]}
  cheap: c/small
  embed: a/embedding
  "*": a/small
  /v1/files*: b
"""


def named(scope: Scope) -> Caller:
    return Caller(next(value.decode() for name, value in scope["headers"] if name == b"x-name"))


async def test_no_label_is_what_a_client_chose_and_series_are_few(upstream: Upstream) -> None:
    async with running(BUSY, upstream=upstream, caller=named) as client:

        async def ask(path: str, name: str, model: str, stream: bool = False) -> None:
            body = {"model": model, "stream": stream, "messages": [{"content": "hi"}]}
            await (await client.post(path, json=body, headers={"x-name": name})).read()

        for model in ("fast", "careful", "cheap", "embed", "a/any"):
            for name in ("red", "blue", "green"):
                upstream.script(refuses(503), says("hello"))
                await ask("/v1/chat/completions", name, model)
                await ask("/v1/chat/completions", name, model, stream=True)
                await ask("/v1/embeddings", name, model)
                await ask("/v1/files", name, model)
        usual = await scraped(client)
        for number in range(500):
            junk = f"junk-{number}"
            await ask("/v1/chat/completions", junk, junk)
            await ask("/v1/chat/completions", "red", f"a/{junk}")
            await ask(f"/{junk}", junk, "fast")
            await ask(f"/v1/files/{junk}", "red", "fast")
        told = await scraped(client)

    routes = {"fast", "careful", "cheap", "embed", "a/*", "*", "/v1/files*", "none"}
    assert told.values("route") == routes
    assert told.values("caller") == {"red", "blue", "green", "other"}
    assert told.values("upstream") == {"a", "b", "c", "none"}
    assert told("headrace_requests_total", caller="other", route="*") == 500
    assert len(usual.samples) < len(told.samples) <= 1000


async def test_ten_thousand_strangers_add_no_series() -> None:
    metrics = Metrics()
    async with metrics:
        sizes = []
        for number in range(10_000):
            strange = record(id=f"r{number}", path=f"/{number}", asked=f"m{number}", status=404)
            strange.caller = Caller(f"name-{number}")
            used = Usage(input=1, output=1)
            strange.attempts.append(
                Attempt(target=Target("a", f"m{number}"), model=f"m{number}", usage=used)
            )
            strange.attempts[0].price = Price(input=1, output=1)
            strange.attempts[0].error = UpstreamError.refused(
                400, b'{"error": {"message": "no", "code": "code-%d"}}' % number
            )
            strange.attempts[0].end("failed")
            strange.close("failed")
            metrics(strange)
            if number in (0, 9_999):
                sizes.append(len(metrics._meters.told(Now.of(metrics.vitals)).splitlines()))

    assert sizes[0] == sizes[1]


@pytest.mark.parametrize(
    ("error", "label"),
    [
        (UpstreamError("gone", code="connect_failed"), "connect_failed"),
        (UpstreamError.refused(429, b'{"error": {"code": "its_own"}}'), "upstream_429"),
        (UpstreamError.refused(401, b""), "upstream_401"),
        (UpstreamError.refused(477, b""), "upstream_4xx"),
        (None, "other"),
    ],
)
async def test_an_attempts_code_is_ours_or_the_status(
    error: UpstreamError | None, label: str
) -> None:
    failed = record()
    failed.attempts.append(Attempt(target=Target("a"), outcome="failed", error=error))

    told = await told_of(failed)

    assert told.values("code") == {label}


async def test_codes_of_a_careless_plugin_are_few() -> None:
    failed = record()
    for number in range(200):
        error = UpstreamError("it said so", code=f"line {number} is wrong")
        failed.attempts.append(Attempt(target=Target("a"), outcome="failed", error=error))

    told = await told_of(failed)

    assert len(told.values("code")) == 61
    assert told("headrace_attempts_total", code="other") == 140


@pytest.mark.parametrize(
    ("status", "label"), [(200, "200"), (499, "499"), (477, "4xx"), (None, "none")]
)
async def test_a_status_that_is_not_known_is_its_class(status: int | None, label: str) -> None:
    told = await told_of(record(status=status))

    assert told.values("status") == {label}


# The text


def test_names_are_as_prometheus_wants_them() -> None:
    """What `promtool check metrics` looks at."""
    for name, (meaning, labels, buckets) in TABLE.items():
        assert re.fullmatch("(headrace|ai)(_[a-z]+)+", name)
        assert name.endswith("_seconds" if buckets else "_total")
        assert meaning.endswith(".")
        assert all(re.fullmatch("[a-z]+(_[a-z]+)*", label) for label in labels)
        assert not {"le", "quantile", "job", "instance"} & {*labels}
        assert list(buckets) == sorted(buckets)


async def test_everything_is_told_with_what_it_means(upstream: Upstream) -> None:
    async with running(upstream=upstream) as client:
        await (await client.chat()).read()
        told = await scraped(client)

    for family in told.families.values():
        assert family.documentation
        assert family.type in ("counter", "histogram", "gauge")
    assert not [sample for sample in told.samples if sample.name.endswith("_created")]


async def test_the_page_of_the_docs_has_every_metric_and_no_other(upstream: Upstream) -> None:
    async with running(upstream=upstream) as client:
        told = await scraped(client)
    exposed = {
        f"{family.name}_total" if family.type == "counter" else family.name: family.type
        for family in told.families.values()
    }
    table = PAGE.read_text().partition("## What is told")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|([^|]*)\|", table, re.MULTILINE)

    assert {name: kind for name, kind, _ in rows} == exposed
    for name, _, labels in rows:
        if name in TABLE:
            assert re.findall(r"`(\w+)`", labels) == list(TABLE[name].labels), name


# Who may read it


@pytest.mark.parametrize("client", [HERE, ("::1", 5), ("::ffff:127.0.0.1", 5)])
async def test_this_machine_may_read_it(client: tuple[str, int], upstream: Upstream) -> None:
    async with running(upstream=upstream) as asking:
        response = await asking.get("/metrics", client=client)
        text = await response.read()

    assert response.status == 200
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert response.headers["cache-control"] == "no-store"
    assert b"headrace_build_info" in text


@pytest.mark.parametrize("client", [ELSEWHERE, ("", 0), ("testclient", 1), None])
async def test_nobody_else_may(client: tuple[str, int] | None, upstream: Upstream) -> None:
    async with running(upstream=upstream) as asking:
        response = await asking.get("/metrics", client=client)
        error = (await response.json())["error"]

    assert response.status == 403
    assert (error["type"], error["code"]) == ("permission_error", "metrics_closed")
    assert "'token'" in error["message"]
    assert response.headers["x-request-id"].startswith("req_")


async def test_no_page_may_that_bends_its_name_to_this_machine(upstream: Upstream) -> None:
    async with running(upstream=upstream) as client:
        response = await client.get("/metrics", headers={"host": "evil.example:8080"})

    assert response.status == 403


@pytest.mark.parametrize(
    "header", ["x-forwarded-for", "Forwarded", "x-real-ip", "Via", "cf-connecting-ip"]
)
async def test_nobody_may_through_a_proxy_of_this_machine(header: str, upstream: Upstream) -> None:
    async with running(upstream=upstream) as client:
        response = await client.get("/metrics", headers={header: "127.0.0.1"})

    assert response.status == 403


TOKEN = "server: {observers: [metrics: {token: '${TOKEN}'}]}\nupstreams: {a: mock}\nroutes: {m: a}"


@pytest.mark.parametrize(
    ("shown", "status"),
    [
        ("Bearer s3cret-and-long-enough", 200),
        ("bearer  s3cret-and-long-enough ", 200),
        ("Bearer s3cre", 401),
        ("Bearer ", 401),
        ("Basic s3cret-and-long-enough", 401),
        ("s3cret-and-long-enough", 401),
        ("Bearer s3crét", 401),
        ("", 401),
    ],
)
async def test_with_a_token_whoever_sends_it_may(shown: str, status: int) -> None:
    async with running(TOKEN, environ={"TOKEN": "s3cret-and-long-enough"}) as client:
        headers = {"authorization": shown, "x-forwarded-for": "10.0.0.7"} if shown else {}
        response = await client.get("/metrics", client=ELSEWHERE, headers=headers)
        text = await response.read()

    assert response.status == status
    assert b"s3cret-and-long-enough" not in text
    if status == 401:
        assert response.headers["www-authenticate"] == "Bearer"


async def test_open_it_is_for_everybody(upstream: Upstream) -> None:
    file = FILE.replace("[metrics]", "[metrics: {open: true}]")
    async with running(file, upstream=upstream) as client:
        response = await client.get(
            "/metrics", client=ELSEWHERE, headers={"x-forwarded-for": "10.0.0.7"}
        )

    assert response.status == 200


async def test_a_callers_key_is_no_token(upstream: Upstream) -> None:
    file = FILE.replace("server: {", "server: {chain: [api_key: {keys: {}}], ")
    async with running(file, upstream=upstream, open=False) as client:
        headers = {"authorization": "Bearer sk-any"}
        response = await client.get("/metrics", client=ELSEWHERE, headers=headers)

    assert response.status == 403


# Where it is


async def test_reading_it_counts_as_no_request(upstream: Upstream) -> None:
    async with running(upstream=upstream) as client:
        await scraped(client)
        told = await scraped(client)
        head = await client.request("HEAD", "/metrics")
        post = await client.post("/metrics", json={})

    assert told("headrace_requests_total") == 0
    assert (head.status, await head.read()) == (200, b"")
    assert post.status == 404


async def test_it_is_where_the_file_says_below_the_gateways_prefix(upstream: Upstream) -> None:
    made = gateway(FILE.replace("[metrics]", "[metrics: {path: /for/prometheus}]"))
    host = Client(Starlette(routes=[Mount("/llm", made)], lifespan=made.lifespan))

    async with made.lifespan():
        found = await host.get("/llm/for/prometheus")
        elsewhere = await host.get("/for/prometheus")
        usual = await host.get("/llm/metrics")

    assert (found.status, elsewhere.status, usual.status) == (200, 404, 404)


async def test_gateways_keep_to_themselves(upstream: Upstream) -> None:
    before = list(REGISTRY.collect())
    async with running(upstream=upstream) as one, running(upstream=upstream) as other:
        await (await one.chat()).read()
        told, others = await scraped(one), await scraped(other)

    assert told("headrace_requests_total") == 1
    assert others("headrace_requests_total") == 0
    assert [metric.name for metric in REGISTRY.collect()] == [metric.name for metric in before]


async def test_numbers_stay_when_a_gateway_is_closed_and_opened(upstream: Upstream) -> None:
    made = gateway(FILE, upstream=upstream)
    for _ in range(2):
        async with made.lifespan():
            await (await Client(made).chat()).read()

    async with made.lifespan():
        told = await scraped(Client(made))

    assert told("headrace_requests_total") == 2


@pytest.mark.parametrize(
    ("observers", "says"),
    [
        ("[metrics, metrics]", "its page is where something else is served"),
        ("[metrics: {path: /healthz}]", "its page is where something else is served"),
        ("[metrics: {path: /v1/models}]", "its page is where something else is served"),
        ("[metrics: {path: /chat/completions}]", "its page is where something else is served"),
        ("[metrics: {path: /v1/files}]", "its page is where something else is served"),
        ("[metrics: {path: metrics}]", "path must be a path such as /metrics"),
        ("[metrics: {path: /}]", "path must be a path such as /metrics"),
        ("[metrics: {token: abc, open: true}]", "take one of them out"),
        ("[metrics: {token: 123456789abcdef}]", "token must have 16 characters or more"),
        ("[metrics: {token: ''}]", "is empty"),
    ],
)
def test_what_cannot_be_is_a_problem(observers: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as failed:
        gateway(
            f"server: {{observers: {observers}}}\nupstreams: {{a: mock}}\nroutes: {{/v1/files: a}}"
        )

    assert "gateway.yaml:1:" in str(failed.value)


def test_a_folder_for_several_processes_must_be_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "gone"))
    with pytest.raises(ConfigError, match="PROMETHEUS_MULTIPROC_DIR must name a folder"):
        gateway(FILE)

    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    gateway(FILE)
    assert list(tmp_path.iterdir()) == []  # building opens nothing
