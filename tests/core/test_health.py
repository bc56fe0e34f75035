"""Upstreams that say how are asked now and then whether they are well; those that are not rest."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from headrace import Call, ConfigError, Duration, Reply, Transport
from headrace.call import Timeouts
from headrace.health import Health, Probes
from headrace.rests import Rests
from headrace.testing import Client, Clock, Loopback, Upstream, gateway, refuses, settled, silent
from headrace.testing.misbehaviour import COMPLETION, answers, status
from headrace_plugins.forwarders.ollama import Ollama
from headrace_plugins.forwarders.openai import OpenAI

PLACE = ("a", None)


def well() -> Any:
    async def act(upstream: Upstream, call: Call) -> Reply:
        return Reply.plain({"data": []}, framing="raw")

    return act


@pytest.fixture(autouse=True)
def draw(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every wait is as long as it may be."""
    monkeypatch.setattr("random.uniform", lambda low, high: high)


@pytest.fixture
def upstream() -> Upstream:
    upstream = Upstream()
    upstream.script(well())
    return upstream


@asynccontextmanager
async def probed(upstream: Any, **options: Any) -> AsyncIterator[Rests]:
    """The rests of an upstream that is asked every ten seconds."""
    rests = Rests()
    probes = Probes(
        upstream="a",
        health=Health(**options),
        forward=upstream,
        timeouts=Timeouts(),
        rests=rests,
    )
    async with probes:
        await settled()
        yield rests


async def turns(clock: Clock, count: int) -> None:
    """Let it be asked so many times more."""
    for _ in range(count):
        clock.advance(11.1)
        await settled()


async def test_it_is_asked_at_the_start_and_every_now_and_then(
    upstream: Upstream, clock: Clock
) -> None:
    async with probed(upstream, path="/health") as rests:
        await turns(clock, 3)
        assert not rests.all

    [asked, *others] = upstream.calls
    assert len(others) == 3
    assert (asked.method, asked.path, asked.operation) == ("GET", "/health", "passthrough")
    assert (dict(asked.headers), asked.body, asked.query) == ({}, b"", "")
    assert (upstream.open, upstream.closed) == (0, 4)


async def test_after_two_failures_in_a_row_nobody_asks_it(upstream: Upstream, clock: Clock) -> None:
    upstream.script(refuses(503), well(), refuses(503), refuses(500))
    async with probed(upstream) as rests:
        await turns(clock, 2)
        assert not rests.all

        await turns(clock, 1)
        rest = rests.at(("a", "any model"))
        assert rest and rest.closed
        assert rest.why == "its probe failed with HTTP 500"


async def test_it_rests_until_it_is_well_again(upstream: Upstream, clock: Clock) -> None:
    upstream.script(*[refuses(500)] * 9, well())
    async with probed(upstream, failures=1) as rests:
        for _ in range(8):
            clock.advance(10.9)
            assert rests.at(PLACE)
            await turns(clock, 1)
        assert rests.at(PLACE)

        await turns(clock, 1)
        assert not rests.all


async def test_silence_is_a_failure(upstream: Upstream, clock: Clock) -> None:
    upstream.script(silent())
    async with probed(upstream, failures=1) as rests:
        assert upstream.asked == ["a"]
        clock.advance(2.1)
        await settled()
        rest = rests.at(PLACE)

    assert rest and rest.why == "its probe failed with no answer within 2s"
    assert upstream.cancelled == 1


async def test_an_answer_without_an_end_is_a_failure(upstream: Upstream, clock: Clock) -> None:
    async def endless(upstream: Upstream, call: Call) -> Reply:
        reply = await well()(upstream, call)
        assert isinstance(reply, Reply)

        async def waiting(events: Any) -> Any:
            async for event in events:
                yield event
            await asyncio.Event().wait()

        return reply.through(waiting)

    upstream.script(endless)
    async with probed(upstream, failures=1) as rests:
        clock.advance(2.1)
        await settled()
        assert rests.at(PLACE)

    assert upstream.open == 0


async def test_a_forwarder_that_fails_by_a_bug_is_a_failure(clock: Clock) -> None:
    async def bug(call: Call) -> Reply:
        raise ZeroDivisionError("secret detail")

    async with probed(bug, failures=1) as rests:
        rest = rests.at(PLACE)
        assert rest and rest.why == "its probe failed with ZeroDivisionError"


async def test_what_rests_for_another_reason_goes_on_resting(
    upstream: Upstream, clock: Clock
) -> None:
    upstream.script(refuses(500), well())
    async with probed(upstream, failures=1) as rests:
        rests.rest(PLACE, 9999, why="somebody said so", closed=True)

        await turns(clock, 1)

        rest = rests.at(PLACE)
        assert rest and rest.why == "somebody said so"


async def test_each_change_is_told_once(
    upstream: Upstream, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "headrace")
    upstream.script(*[refuses(500)] * 4, well())
    async with probed(upstream):
        await turns(clock, 6)

    assert [record.message for record in caplog.records] == [
        "upstream a is not asked: its probe failed with HTTP 500",
        "upstream a is well again",
    ]


async def test_it_ends_with_the_gateway(upstream: Upstream, clock: Clock) -> None:
    upstream.script(silent())
    before = asyncio.all_tasks()
    async with probed(upstream):
        assert len(asyncio.all_tasks() - before) == 1

    assert upstream.cancelled == 1
    assert asyncio.all_tasks() == before


# Over real sockets


@pytest.mark.parametrize("status_", [200, 204])
async def test_any_2xx_is_well_and_its_connection_is_kept(clock: Clock, status_: int) -> None:
    async with Loopback() as server:
        server.script(status(status_, b"" if status_ == 204 else {"data": ["x" * 5000]}))
        transport = Transport.of_server()
        forward = OpenAI(base_url=f"{server.url}/v1", transport=transport)
        async with probed(forward, failures=1) as rests:
            await server.asked()
            for number in (2, 3):
                while len(server.requests) < number:
                    clock.advance(11.1)
                    await asyncio.sleep(0.01)
            assert not rests.all
        await transport.aclose()

    assert len(server.connections) == 1
    assert server.requests[0].body == b""


@pytest.mark.parametrize(
    ("forwarder", "base", "path", "asked"),
    [
        (OpenAI, "/v1", "/v1/models", "/v1/models"),
        (OpenAI, "/api/v1", "/v1/models", "/api/v1/models"),
        (OpenAI, "/v1", "/health", "/v1/health"),
        (OpenAI, "", "/health", "/health"),
        (Ollama, "", "/v1/models", "/v1/models"),
        (Ollama, "", "/api/version", "/api/version"),
    ],
)
async def test_its_path_is_that_of_a_call_that_is_passed_through(
    clock: Clock, forwarder: Any, base: str, path: str, asked: str
) -> None:
    async with Loopback() as server:
        server.script(answers({}))
        transport = Transport.of_server()
        forward = forwarder(base_url=server.url + base, transport=transport)
        async with probed(forward, path=path):
            await server.asked()
        await transport.aclose()

    assert server.requests[0].target == asked


CONFIG = """
    upstreams:
      a:
        forwarder: {{openai: {{base_url: "{ill}/v1"}}}}
        models: [m]
        health: {{failures: 1}}
      b: {{forwarder: {{openai: {{base_url: "{well}/v1"}}}}, models: [m]}}
    routes: {{m: {{chain: [fallback], targets: [a, b]}}, only: a/m}}
    """


async def test_calls_go_to_the_others_and_nobody_is_told_of_the_probe() -> None:
    async with Loopback() as ill, Loopback() as healthy:
        ill.script(status(503))
        healthy.script(answers(COMPLETION))
        made = gateway(CONFIG.format(ill=ill.url, well=healthy.url))
        told: list[object] = []
        made.edge.observers = (told.append,)
        async with made.lifespan():
            async with asyncio.timeout(5):
                while not made.vitals.rests.all:
                    await asyncio.sleep(0.005)
            client = Client(made)
            answer, refused = await client.chat(model="m"), await client.chat(model="only")
            await settled()

    assert (answer.status, answer.headers["x-headrace-upstream"]) == (200, "b")
    assert answer.headers["x-headrace-attempts"] == "1"
    assert refused.status == 503
    assert 1 <= int(refused.headers["retry-after"]) <= 14
    assert [request.method for request in ill.requests] == ["GET"]
    assert len(told) == 2


# What can be written


def test_it_asks_for_the_models_every_ten_seconds_unless_told_otherwise() -> None:
    made = gateway("upstreams: {a: {forwarder: mock, health: {}}, b: {forwarder: mock, health:}}")

    (asking,) = made.plan.probes
    assert (asking.upstream, asking.health) == (
        "a",
        Health(path="/v1/models", every=Duration(10), timeout=Duration(2), failures=2),
    )


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("{path: health}", "path must be a path such as /v1/models, without '\\?' and '#'"),
        ("{path: '/h?a=b'}", "path must be a path such as"),
        ("{every: 0}", "every must be more than 0"),
        ("{timeout: 5}", "timeout has no unit; write a unit, e.g. 5s"),
        ("{failures: 0}", "health: failures must be greater than or equal to 1, found 0"),
        ("{evry: 5s}", "has no option 'evry'"),
        ("true", "health takes options as 'name: value', found true or false"),
    ],
)
def test_what_makes_no_sense_is_a_problem(written: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        gateway(f"upstreams: {{a: {{forwarder: mock, health: {written}}}}}")
