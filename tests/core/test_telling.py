"""What the headers and the errors of a call tell: attempts, times, when to come back."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

import pytest

from headrace import Attempt, Record, Target, UpstreamError
from headrace.telling import hints, telling, tried
from headrace.testing import Client, Loopback, Upstream, down, gateway, refuses, says
from headrace.testing.misbehaviour import status

# Server-Timing and what it is made of (w3.org/TR/server-timing, RFC 9110, 5.6).
TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
QUOTED = r'"(?:[\t \x21\x23-\x5b\x5d-\x7e]|\\[\t \x21-\x7e])*"'
METRIC = rf"{TOKEN}(?:;{TOKEN}=(?:{TOKEN}|{QUOTED}))*"
TIMING = re.compile(rf"{METRIC}(?:, {METRIC})*")

BOTH = """
    upstreams: {a: mock, b: mock}
    routes: {m: {chain: [fallback], targets: [a, b]}, one: a}
    """


def record(*attempts: Attempt) -> Record:
    now = time.monotonic()
    closed = Record(id="req_1", method="POST", path="/v1/chat/completions", started=now - 1)
    closed.attempts += attempts
    closed.first_byte = now
    return closed


def attempt(upstream: str = "a", *, began: float = 1.0, ended: float = 0.5) -> Attempt:
    """One that began and ended so many seconds ago."""
    now = time.monotonic()
    return Attempt(
        target=Target(upstream), started=now - began, ended=now - ended, outcome="failed"
    )


def failed(seconds: float | None, upstream: str = "a", *, ago: float = 0.0) -> Attempt:
    """One that was asked to wait so many seconds, that long ago."""
    made = attempt(upstream, ended=ago)
    made.error = UpstreamError("busy", code="upstream_503", status=503, retry_after=seconds)
    return made


# Server-Timing


async def ask(upstream: Upstream, **members: Any) -> Any:
    made = gateway(BOTH, upstream=upstream)
    async with made.lifespan():
        return await Client(made).chat(**members)


@pytest.mark.parametrize(
    ("acts", "names"),
    [
        ([says("hello")], ["gateway", "attempt-1"]),
        ([refuses(503), says("hello")], ["gateway", "attempt-1", "attempt-2"]),
        ([down(), down()], ["gateway", "attempt-1", "attempt-2"]),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_the_times_of_every_response_are_well_formed(
    acts: list[Any], names: list[str], stream: bool
) -> None:
    upstream = Upstream()
    upstream.script(*acts)

    told = (await ask(upstream, stream=stream)).headers["server-timing"]

    assert TIMING.fullmatch(told), told
    assert [metric.partition(";")[0] for metric in told.split(", ")] == names


async def test_a_call_that_nobody_was_asked_for_has_times_too() -> None:
    told = (await ask(Upstream(), model="none")).headers["server-timing"]

    assert re.fullmatch(r"gateway;dur=\d+\.\d", told)


def test_they_say_how_long_each_attempt_took_and_what_became_of_it() -> None:
    told = telling(record(attempt("a", began=1.0, ended=0.25), attempt("b", began=0.25, ended=0)))

    gateway_, first, second = told["server-timing"].split(", ")
    assert gateway_.startswith("gateway;dur=")
    assert re.fullmatch(r'attempt-1;desc="a failed";dur=7\d\d\.\d', first)
    assert re.fullmatch(r'attempt-2;desc="b failed";dur=2\d\d\.\d', second)


def test_names_of_upstreams_break_nothing() -> None:
    told = telling(record(attempt('a"b\\c, d;e=f')))["server-timing"]

    assert TIMING.fullmatch(told), told
    assert r'desc="a\"b\\c, d;e=f failed"' in told


def test_of_many_attempts_the_first_are_told() -> None:
    told = telling(record(*(attempt() for _ in range(50))))

    assert told["server-timing"].count("attempt-") == 8
    assert told["x-headrace-attempts"] == "50"


# The gateway's own time


def test_what_was_waited_for_on_purpose_is_not_the_gateways_own_time() -> None:
    closed = Record(id="req_1", method="POST", path="/", started=10.0, first_byte=18.0)
    closed.attempts = [
        Attempt(target=Target("a"), started=11.0, ended=12.0),
        Attempt(target=Target("b"), started=12.0, ended=14.0),
        Attempt(target=Target("a"), started=16.0, first_output=17.5),
    ]
    closed.waits = [(12.0, 15.0)]  # beside the second one

    assert closed.overhead == 2.5
    assert telling(closed)["x-headrace-overhead-ms"] == "2500.0"


def test_a_wait_that_was_broken_off_is_known_too() -> None:
    closed = record()

    with pytest.raises(asyncio.CancelledError), closed.waiting():
        raise asyncio.CancelledError

    [(began, ended)] = closed.waits
    assert began <= ended


# The attempts in an error


def test_attempts_are_told_by_name_outcome_and_time() -> None:
    ended = attempt("a", began=1.5, ended=0.5)
    ended.status, ended.model = 500, "gpt"
    ended.error = UpstreamError("out of memory", code="upstream_500", said=500)

    [told] = tried(record(ended))

    assert told == {
        "upstream": "a",
        "model": "gpt",
        "outcome": "failed",
        "status": 500,
        "code": "upstream_500",
        "seconds": pytest.approx(1.0, abs=0.01),
    }


async def test_an_error_after_several_attempts_lists_them_and_no_address() -> None:
    async with Loopback() as server:
        server.script(status(500, {"error": {"message": "out of memory"}}))
        async with Loopback() as gone:
            addresses = [server.url, gone.url]
        made = gateway(
            f"""
            upstreams:
              a: {{forwarder: {{openai: {{base_url: "{addresses[0]}/v1"}}}}}}
              b: {{forwarder: {{openai: {{base_url: "{addresses[1]}/v1"}}}}}}
            routes: {{m: {{chain: [fallback], targets: [a, b]}}}}
            """
        )
        async with made.lifespan():
            response = await Client(made).chat()
            error = (await response.json())["error"]

    assert [(a["upstream"], a["status"], a["code"]) for a in error["attempts"]] == [
        ("a", 500, "upstream_500"),
        ("b", None, "connect_failed"),
    ]
    shown = repr(error) + repr(response.headers.raw)
    for address in addresses:
        host, port = address.removeprefix("http://").split(":")
        assert host not in shown
        assert f":{port}" not in shown


@pytest.mark.parametrize("forwarder", ["openai", "ollama"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/files"])
async def test_an_upstream_that_says_where_it_is_is_not_quoted(forwarder: str, path: str) -> None:
    async with Loopback() as server:
        server.script(status(500, {"error": {"message": f"connect to {server.url}/x failed"}}))
        made = gateway(
            f"""
            upstreams: {{a: {{forwarder: {{{forwarder}: {{base_url: "{server.url}/v1"}}}}}}}}
            routes: {{m: a, /v1/files: a}}
            """
        )
        async with made.lifespan():
            asked = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
            response = await Client(made).post(path, json=asked)

    assert (await response.json())["error"]["message"] == "connect to http://***/x failed"


async def test_an_error_after_one_attempt_has_openais_members_alone() -> None:
    upstream = Upstream()
    upstream.script(down())

    error = (await (await ask(upstream, model="one")).json())["error"]

    assert set(error) == {"message", "type", "param", "code"}


# When to come back


async def test_the_one_that_is_free_first_counts() -> None:
    now = asyncio.get_running_loop().time()
    closed = record(failed(30, "a"), failed(None, "b"), failed(8, "c", ago=3))
    closed.resting[Target("d")] = now + 20

    told = hints(UpstreamError("busy", code="x", status=503), closed)

    assert told["retry-after"] == "5"
    assert 4000 < int(told["retry-after-ms"]) <= 5000


async def test_of_one_target_the_last_word_counts() -> None:
    told = hints(UpstreamError("busy", code="x", status=429), record(failed(3, ago=3), failed(7)))

    assert told["retry-after"] == "7"


async def test_what_was_waited_for_is_not_told_where_the_last_word_was_none() -> None:
    told = hints(
        UpstreamError("busy", code="x", status=429), record(failed(3, ago=3), failed(None))
    )

    assert "retry-after" not in told


async def test_a_target_that_rests_is_not_free_when_it_had_asked_to_come_back() -> None:
    closed = record(failed(3, ago=3))
    closed.resting[Target("a")] = asyncio.get_running_loop().time() + 20

    told = hints(UpstreamError("busy", code="x", status=503), closed)

    assert told["retry-after"] == "20"


async def test_what_is_over_by_now_is_told_as_at_once() -> None:
    told = hints(UpstreamError("busy", code="x", status=429), record(failed(1, ago=5)))

    assert (told["retry-after"], told["retry-after-ms"]) == ("1", "1")


async def test_what_the_client_did_wrong_is_not_asked_again_when_another_upstream_is_free() -> None:
    upstream = Upstream()
    upstream.script(refuses(429, retry_after=9), refuses(400))

    told = await ask(upstream)

    assert told.status == 400
    assert not {"retry-after", "retry-after-ms"} & set(told.headers)
    assert told.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("shown", [400, 502, 504])
async def test_other_errors_have_no_hint(shown: int) -> None:
    told = hints(UpstreamError("bad", code="x", status=shown), record(failed(5)))

    assert "retry-after" not in told
