"""`rate_limit` and tokens: what is put aside before a call, and what it comes to in the end."""

from __future__ import annotations

import asyncio
import math
import os
import time
from asyncio import Runner
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace import (
    Attempt,
    Call,
    Caller,
    CallError,
    Count,
    Duration,
    Quota,
    Rate,
    RateLimited,
    Reply,
    Target,
    UpstreamError,
    Usage,
)
from headrace.testing import (
    Clock,
    ClockLoop,
    Upstream,
    ask,
    breaks,
    call,
    chunk,
    down,
    raw,
    refuses,
    says,
    sends,
    silent,
    stalls,
    text,
)
from headrace.testing.contracts.kinds import saying
from headrace_plugins.fallback import Fallback
from headrace_plugins.rate_limit import RateLimit
from headrace_plugins.rate_limit.budget import Budget
from headrace_plugins.rate_limit.estimates import Estimate, estimate, used
from headrace_plugins.retry import Retry

from .rate_limit.faulty import Cache, Faulty, Race, served
from .rate_limit.gates import let_in, policy

CASES = int(os.environ.get("FUZZ_CASES", "150"))
HOUR = 36000


def limit(**more: Any) -> RateLimit:
    """Ten tokens a second, and an hour's worth of them at once."""
    return RateLimit(policies=[policy(name="all", by=[], tokens=f"{HOUR}/hour", **more)])


async def level(plugin: RateLimit) -> float:
    """How many tokens are left."""
    given = call("me").replace(caller=Caller("who looks"))
    visit = plugin._visit(given)
    await visit.take(plugin._counter, visit.limits)
    return next(each.remaining for each in visit.allowances if each.counts == "tokens")


# Before


@pytest.mark.parametrize(
    ("members", "output"),
    [
        ({}, 1000),
        ({"max_tokens": 50}, 50),
        ({"max_completion_tokens": 70, "max_tokens": 50}, 70),
        ({"max_tokens": 50, "n": 4}, 200),
        ({"n": 4}, 4000),
        ({"max_tokens": None, "n": None}, 1000),
        ({"max_tokens": "many", "n": True}, 1000),
        ({"max_tokens": -5, "n": -5}, 1000),
        ({"max_tokens": 0}, 1000),
        ({"max_tokens": 10**18, "n": 10**18}, 10**9),
        ({"max_tokens": 1.5, "n": [2]}, 1000),
    ],
)
async def test_an_answer_is_as_long_as_it_may_be(members: dict[str, Any], output: int) -> None:
    assert estimate(call(**members), 1000).output == output


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (lambda: call("embedding", input="x" * 4000), 1015),
        (lambda: call("passthrough", body=b"x" * 4000), 0),
        (lambda: call("chat", body=b"no JSON"), 0),
        (lambda: call("me").replace(method="GET"), 0),
    ],
)
async def test_what_has_no_answer_to_count_takes_no_tokens_for_one(
    given: Any, expected: int
) -> None:
    assert sum(estimate(given(), 1000)) == pytest.approx(expected, abs=20)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 10**6}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64," + "A" * 10**6}},
        {"type": "input_audio", "input_audio": {"data": "A" * 10**6, "format": "wav"}},
    ],
)
async def test_images_sound_and_files_are_no_text(part: dict[str, Any]) -> None:
    words = {"type": "text", "text": "x" * 4000}
    given = call(messages=[{"role": "user", "content": [part, words, part]}])

    assert estimate(given, 0).input == pytest.approx(1000 + 2 * 1000, abs=100)


@pytest.mark.parametrize(
    "content",
    [
        ";base64,please write a long story " * 100,
        '"data":"please write a long story ' * 100,
        "data:text/plain;base64,please write a long story" + " x" * 1000,
        "data:;base64," + "A" * 100,
    ],
)
async def test_no_mark_hides_a_text_and_nothing_is_less_than_nothing(content: str) -> None:
    given = call(messages=[{"role": "user", "content": content}], data=f"data:;base64,{content}")

    assert estimate(given, 0).input >= min(len(content) // 4, 25)


async def test_a_file_that_looks_like_two_is_counted_once() -> None:
    given = call(input_audio={"data": "data:;base64," + "A" * 4000})

    assert estimate(given, 0).input == pytest.approx(1000, abs=50)


@pytest.mark.parametrize(
    ("members", "output"),
    [
        ({"prompt": "one", "max_tokens": 10}, 10),
        ({"prompt": ["one", "two", "three"], "max_tokens": 10}, 30),
        ({"prompt": [1, 2, 3], "max_tokens": 10}, 10),
        ({"prompt": [[1, 2], [3]], "max_tokens": 10, "best_of": 5}, 100),
        ({"max_completion_tokens": 1, "max_tokens": 500}, 500),
    ],
)
async def test_every_prompt_may_have_all_of_its_answers(
    members: dict[str, Any], output: int
) -> None:
    assert estimate(call("completion", **members), 1000).output == output


@pytest.mark.parametrize("piece", ["x", ";base64,", '"data":"', "aaaaaaaaaaaa;base64,a", "[],"])
async def test_a_large_body_is_estimated_at_once(piece: str) -> None:
    given = call(messages=[{"role": "user", "content": piece * (16_000_000 // len(piece))}])
    given.json  # noqa: B018  read before

    began = time.process_time()
    estimate(given, 0)

    assert time.process_time() - began < 0.5


# After


@pytest.mark.parametrize(
    ("usage", "first_output", "expected"),
    [
        (Usage(input=30, output=40), 1.0, 70),
        (Usage(input=0, output=0), 1.0, 0),
        (Usage(output=40, estimated=True), 1.0, 140),
        (Usage(input=30), 1.0, 430),
        (Usage(input=30), None, 30),
        (Usage(), 1.0, 500),
        (Usage(input=30, output=0), None, 30),
        (None, 1.0, 500),
        (None, None, 100),
    ],
)
def test_what_an_attempt_used(
    usage: Usage | None, first_output: float | None, expected: int
) -> None:
    attempt = Attempt(target=Target("a"), usage=usage, first_output=first_output)
    given: Any = {"estimated": Estimate(100, 900), "reserved": 500, "streams": True}

    assert used([attempt], **given).tokens == expected
    assert used([attempt, attempt], **given).tokens == 2 * expected
    assert used([], **given) == (0, False)


@pytest.mark.parametrize(
    ("streams", "others", "expected"),
    [
        (True, [], 100),
        (False, [], 500),  # all of it was being written, and nobody knows how much
        (False, [None], 600),  # once, however many were writing
        (False, [Usage(input=30, output=20)], 150),  # it was left for the one that answered
    ],
)
def test_an_attempt_that_nobody_waited_for_used_what_was_sent(
    streams: bool, others: list[Usage | None], expected: int
) -> None:
    attempts = [
        Attempt(target=Target("a"), usage=usage, first_output=1.0 if usage else None)
        for usage in (None, *others)
    ]

    assert used(attempts, Estimate(100, 900), 500, streams=streams) == (expected, True)


async def test_tokens_are_put_aside_before_and_settled_after() -> None:
    plugin = limit()
    upstream = Upstream()
    upstream.script(says("hello", usage=(100, 50)))
    given = call(max_tokens=2000)
    wanted = sum(estimate(given, 0))

    reply = await ask(plugin, upstream=upstream, call=given)
    assert await level(plugin) == HOUR - wanted
    await text(reply)

    assert await level(plugin) == HOUR - 150
    [limited] = given.record.limits
    assert (limited.policy, limited.outcome) == ("all", "admitted")
    assert (limited.reserved, limited.settled) == (wanted, 150)
    assert (limited.released, limited.beyond) == (wanted - 150, 0)


async def test_what_was_used_beyond_is_owed() -> None:
    plugin = limit()
    upstream = Upstream()
    upstream.script(says("hello", usage=(100, 50_000)))
    given = call(max_tokens=100)

    await text(await ask(plugin, upstream=upstream, call=given))

    [limited] = given.record.limits
    assert limited.settled == limited.reserved
    assert limited.settled + limited.beyond == 50_100
    with pytest.raises(RateLimited, match="has 0 left") as caught:
        await ask(plugin, upstream=upstream, call=call(max_tokens=1))
    wait = float(caught.value.headers["retry-after-ms"]) / 1000
    assert wait == pytest.approx((50_100 - HOUR + 16) / 10, abs=1)


async def test_more_than_there_ever_is_waits_for_all_there_is() -> None:
    plugin = limit()
    upstream = Upstream()

    reply = await ask(plugin, upstream=upstream, call=call(max_tokens=10**9, n=100))
    assert await level(plugin) == 0
    await text(reply)
    assert await level(plugin) == HOUR - 5

    with pytest.raises(RateLimited) as caught:
        await ask(plugin, upstream=upstream, call=call(max_tokens=10**9))
    assert caught.value.headers["retry-after"] == "1"


async def test_what_is_sent_must_fit_by_itself() -> None:
    plugin = limit()
    long = call(messages=[{"role": "user", "content": "x" * 5 * HOUR}])

    with pytest.raises(RateLimited, match="never has so many") as caught:
        await ask(plugin, upstream=Upstream(), call=long)

    assert "retry-after" not in caught.value.headers
    assert caught.value.headers["x-should-retry"] == "false"
    assert await level(plugin) == HOUR
    assert [limited.outcome for limited in long.record.limits] == ["refused"]


async def test_a_stream_that_does_not_say_what_it_used_is_estimated() -> None:
    plugin = limit()
    upstream = Upstream()
    upstream.script(breaks("x" * 400))
    given = call(stream=True, messages=[{"role": "user", "content": "x" * 4000}])

    with pytest.raises(UpstreamError, match="broke"):
        await raw(await ask(plugin, upstream=upstream, call=given))

    assert await level(plugin) == pytest.approx(HOUR - 1000 - 100, abs=30)


async def test_an_answer_that_says_nothing_of_it_used_what_was_put_aside() -> None:
    plugin = limit()
    upstream = Upstream()

    async def silent_about_it(upstream: Upstream, call: Call) -> Reply:
        return Reply.plain({"choices": [{"message": {"content": "hello"}}]})

    upstream.script(silent_about_it)
    given = call(max_tokens=500)

    await raw(await ask(plugin, upstream=upstream, call=given))

    assert await level(plugin) == HOUR - sum(estimate(given, 0))


async def test_every_attempt_counts_and_one_that_was_refused_used_nothing() -> None:
    plugin = limit()
    upstream = Upstream()
    upstream.script(down(), refuses(500), says("hello", usage=(30, 20)))
    retry = Retry(attempts=3, wait=Duration(0))

    await text(await ask(plugin, retry, upstream=upstream, call=call()))

    assert await level(plugin) == HOUR - 50


async def test_those_who_lose_a_race_count_too() -> None:
    plugin = limit()
    upstream = Upstream()
    upstream.script(says("one", usage=(30, 20)), says("two", usage=(30, 20)))
    given = call(targets=["a", "b"])

    await text(await ask(plugin, Race(), upstream=upstream, call=given))

    answered = [each for each in given.record.attempts if each.first_output]
    assert await level(plugin) == HOUR - 50 * len(answered)


@pytest.mark.parametrize("stream", [False, True])
async def test_who_leaves_before_the_answer_begins_pays_for_what_was_sent(stream: bool) -> None:
    plugin = limit()
    upstream = Upstream()
    upstream.script(silent())
    given = call(stream=stream, max_tokens=500)
    wanted = estimate(given, 0)

    await served(given, (plugin,), upstream, leaves=60)

    assert upstream.asked
    spent = wanted.input if stream else sum(wanted)
    assert await level(plugin) == HOUR - spent
    [limited] = given.record.limits
    assert (limited.settled, limited.estimated) == (spent, True)


async def test_nobody_asks_for_more_than_the_limit_by_leaving(clock: Clock) -> None:
    plugin = limit()
    upstream = Upstream()
    upstream.script(*[silent()] * 9)

    for _ in range(9):
        await served(call(max_tokens=HOUR // 4), (plugin,), upstream, leaves=60)

    assert len(upstream.asked) == 3


@pytest.mark.parametrize(
    ("act", "costs"), [(silent(), True), (down(), False), (refuses(500), False)]
)
async def test_silence_costs_what_was_sent_and_a_refusal_nothing(
    clock: Clock, act: Any, costs: bool
) -> None:
    clock.jumps = True
    plugin = limit()
    upstream = Upstream()
    upstream.script(act)
    given = call(stream=True, seconds=5)

    with pytest.raises(CallError):
        await ask(plugin, upstream=upstream, call=given)

    [limited] = given.record.limits
    assert limited.settled == (estimate(given, 0).input if costs else 0)


async def test_who_loses_a_race_before_it_answered_used_what_was_sent() -> None:
    plugin = limit()
    upstream = Upstream()
    upstream.script(silent(), says("two", usage=(30, 20)))
    given = call(targets=["a", "b"])

    await text(await ask(plugin, Race(), upstream=upstream, call=given))

    [limited] = given.record.limits
    assert limited.settled == 50 + estimate(given, 0).input
    assert limited.estimated


async def test_an_answer_from_a_cache_costs_no_tokens_but_is_a_request() -> None:
    plugin = limit(requests="5/day")
    given = call(max_tokens=500)

    await raw(await ask(plugin, Cache(), upstream=Upstream(), call=given))

    assert await level(plugin) == HOUR
    assert given.record.limits[0].released == given.record.limits[0].reserved > 500
    assert [await let_in(plugin, call()) for _ in range(5)] == [True] * 4 + [False]


async def test_what_is_passed_through_takes_no_tokens_and_waits_for_none() -> None:
    plugin = limit()
    upstream = Upstream()
    upstream.script(says("hello", usage=(100, 50_000)), saying([b"raw"], asyncio.Semaphore(9)))
    await text(await ask(plugin, upstream=upstream, call=call()))

    await raw(await ask(plugin, upstream=upstream, call=call("passthrough", body=b"\x00")))


# Whatever happens

LARGE = 10**6
ACTS = st.sampled_from(
    [
        says("hello ", "world", usage=(30, 20)),
        says("hello", usage=(3000, 40_000)),
        sends(orjson.dumps(chunk(content="no usage")), orjson.dumps(chunk(finish="stop"))),
        breaks("hello "),
        breaks(),
        stalls("hello "),
        silent(),
        down(),
        refuses(429),
        refuses(400),
    ]
)
PLUGINS = st.sampled_from(
    [(), (Retry(wait=Duration(0)),), (Fallback(),), (Race(),), (Cache(),), (Race(), Retry())]
)
CALLS = st.fixed_dictionaries(
    {
        "members": st.fixed_dictionaries(
            {"stream": st.booleans(), "max_tokens": st.integers(1, 2 * LARGE)}
        ),
        "plugins": PLUGINS,
        "acts": st.lists(ACTS, min_size=1, max_size=4),
        "leaves": st.none() | st.integers(0, 60),
    }
)
FAULTS = st.lists(
    st.sampled_from(["well", "well", "refuses", "forgets", "hangs", "stalls"]), max_size=10
)


@pytest.mark.fuzz
@settings(max_examples=CASES, deadline=None)
@given(
    st.lists(CALLS, min_size=1, max_size=4),
    FAULTS,
    st.sampled_from(["local", "open", "closed"]),
    st.booleans(),
)
def test_the_books_are_closed_and_the_store_knows_of_nothing_else(
    calls: list[Any], faults: list[str], on_store_error: Any, in_turn: bool
) -> None:
    with Runner(loop_factory=ClockLoop) as runner:
        runner.run(_closed_books(calls, faults, on_store_error, in_turn))


async def _closed_books(
    calls: list[Any], faults: list[str], on_store_error: Any, in_turn: bool
) -> None:
    Clock.running().jumps = True
    store = Faulty(*faults)
    limits = Quota(
        tokens=(Rate(LARGE, 1e12), Rate(2 * LARGE, 2e12)), concurrent=Count(3)
    )  # in so long a time that nothing fills up meanwhile
    plugin = RateLimit(store=store, on_store_error=on_store_error)
    caller = Caller("ann", limits=limits)
    given = [
        call(targets=("a", "b"), seconds=30, **each["members"]).replace(caller=caller)
        for each in calls
    ]
    async with plugin:
        serving = [
            served(
                asked, (plugin, *each["plugins"]), _scripted(each["acts"]), leaves=each["leaves"]
            )
            for asked, each in zip(given, calls, strict=True)
        ]
        for each in [[one] for one in serving] if in_turn else [serving]:
            await asyncio.gather(*each)
        store.script.clear()
        await asyncio.sleep(5)  # what is owed is paid by then

        spent = 0
        for asked in given:
            for limited in asked.record.limits:
                assert limited.reserved == limited.settled + limited.released
                assert min(limited.reserved, limited.settled, limited.released, limited.beyond) >= 0
                if limited.outcome == "admitted":
                    assert limited.settled + limited.beyond == _used(asked, limited.reserved)
                spent += 0 if limited.local else limited.settled + limited.beyond
        for counter, expected in ((plugin._counter, spent), (plugin._local, None)):
            [found] = await counter.peek(plugin._visit(given[0]).limits, Budget())
            day, year, slots = found.left
            assert slots.there == 3
            assert LARGE - day.there == pytest.approx(2 * LARGE - year.there, abs=1e-3)
            if expected is not None:
                assert LARGE - day.there == pytest.approx(expected, abs=1e-3)


def _scripted(acts: list[Any]) -> Upstream:
    upstream = Upstream()
    upstream.script(*acts)
    return upstream


def _used(asked: Call, reserved: int) -> int:
    """What a call's attempts used, by its record."""
    total, alone = 0, []
    prompt = math.ceil(len(asked.body) / 4)
    for attempt in asked.record.attempts:
        if usage := attempt.usage:
            total += (prompt if usage.input is None else usage.input) + (usage.output or 0)
        elif attempt.first_output:
            total += reserved
        elif attempt.outcome == "cancelled" or code_of(attempt) in (None, "first_byte_timeout"):
            total += prompt
            alone.append(attempt)
    answered = any(attempt.first_output for attempt in asked.record.attempts)
    if alone and not answered and not asked.members["stream"]:
        total += reserved - prompt
    return total


def code_of(attempt: Attempt) -> str | None:
    return attempt.error.code if attempt.error else None
