"""`race`: several targets are asked at once, and the first good reply wins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from headrace import (
    PASSTHROUGH,
    BadRequest,
    Call,
    ConfigError,
    Event,
    Next,
    Record,
    Reply,
    Rests,
    Target,
    TimedOut,
    UpstreamError,
)
from headrace.attempts import Attempts
from headrace.attempts import Upstream as ConfiguredUpstream
from headrace.chain import compose
from headrace.record import Attempt
from headrace.testing import (
    Clock,
    Upstream,
    ask,
    breaks,
    call,
    down,
    gateway,
    raw,
    refuses,
    says,
    settled,
    silent,
    stalls,
    text,
)
from headrace.testing.script import Act
from headrace_plugins.fallback import Fallback
from headrace_plugins.race import Race

ABC = ("a", "b", "c")


@pytest.fixture
async def upstream(clock: Clock) -> AsyncIterator[Upstream]:
    """Answers in order of being asked, which is that of the targets; waiting takes no time."""
    clock.jumps = True
    before = len(asyncio.all_tasks())
    yield Upstream()
    assert len(asyncio.all_tasks()) == before, "something is still running"


def later(seconds: float, act: Act) -> Act:
    async def acting(upstream: Upstream, call: Call) -> Reply:
        await asyncio.sleep(seconds)
        reply: Reply = await act(upstream, call)
        return reply

    return acting


def outcomes(call: Call) -> list[str | None]:
    return [attempt.outcome for attempt in call.record.attempts]


async def race(upstream: Upstream, asked: Call, **options: Any) -> Reply:
    before = asyncio.all_tasks()
    try:
        return await ask(Race(**options), upstream=upstream, call=asked)
    finally:
        assert asyncio.all_tasks() == before, "something is still running"


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_the_first_good_reply_wins(upstream: Upstream, stream: bool) -> None:
    upstream.script(later(3, says("slow")), later(1, says("quick")), silent())
    asked = call(targets=ABC, stream=stream)

    reply = await race(upstream, asked)

    assert outcomes(asked) == ["cancelled", None, "cancelled"]
    assert (upstream.open, upstream.cancelled) == (1, 2)
    assert await text(reply) == "quick"
    assert upstream.open == 0


async def test_all_are_asked_at_the_same_moment(upstream: Upstream, clock: Clock) -> None:
    upstream.script(later(2, says("hello")))
    began = clock.now

    await text(await race(upstream, call(targets=ABC)))

    assert upstream.asked == ["a", "b", "c"]
    assert clock.now - began < 3


@pytest.mark.parametrize("fails", [down(), refuses(400), refuses(429), refuses(500)])
async def test_a_failure_never_wins(upstream: Upstream, fails: Act) -> None:
    upstream.script(fails, later(5, says("hello")))

    assert await text(await race(upstream, call(targets=["a", "b"]))) == "hello"


async def test_a_stream_that_breaks_before_its_first_words_does_not_win(upstream: Upstream) -> None:
    upstream.script(breaks(), later(5, says("hello")))

    assert await text(await race(upstream, call(targets=["a", "b"], stream=True))) == "hello"


async def test_a_stream_that_has_said_no_more_than_its_role_has_not_won(upstream: Upstream) -> None:
    upstream.script(stalls(""), later(5, says("hello")))
    asked = call(targets=["a", "b"], stream=True)

    assert await text(await race(upstream, asked)) == "hello"
    assert (upstream.open, upstream.closed) == (0, 2)


async def test_of_two_that_answer_in_the_same_moment_the_first_in_order_wins(
    upstream: Upstream,
) -> None:
    upstream.script(says("one", usage=(3, 1)), says("other", usage=(3, 7)))
    asked = call(targets=["a", "b"])

    reply = await race(upstream, asked)

    assert (upstream.open, upstream.closed) == (1, 1)
    assert await text(reply) == "one"
    assert outcomes(asked) == ["ok", "cancelled"]


async def test_what_a_loser_used_is_recorded(upstream: Upstream) -> None:
    plain, streamed = call(targets=["a", "b"]), call(targets=["a", "b"], stream=True)

    upstream.script(says("one", usage=(3, 1)), says("other", usage=(4, 7)))
    await text(await race(upstream, plain))
    upstream.script(says("one"), stalls("twelve chars"))
    await text(await race(upstream, streamed))

    told = [asked.record.attempts[1].usage for asked in (plain, streamed)]
    assert [(u.input, u.output, u.estimated) for u in told if u] == [(4, 7, False), (None, 3, True)]


async def test_what_a_loser_said_of_its_tokens_before_its_first_words_is_recorded(
    upstream: Upstream,
) -> None:
    async def counts(upstream: Upstream, call: Call) -> Reply:
        async def events() -> AsyncIterator[Event]:
            choices = [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}]
            yield Event.saying({"choices": choices, "usage": {"prompt_tokens": 9}}, "sse")
            await asyncio.Event().wait()

        return Reply(events(), framing="sse")

    upstream.script(counts, later(1, says("hello")))
    asked = call(targets=["a", "b"], stream=True)

    await text(await race(upstream, asked))

    usage = asked.record.attempts[0].usage
    assert usage
    assert usage.input == 9


# How many at once


async def test_no_more_than_the_width_are_asked_at_once(upstream: Upstream) -> None:
    upstream.script(later(2, says("hello")))

    await text(await race(upstream, call(targets=ABC), width=2))

    assert upstream.asked == ["a", "b"]


async def test_when_one_fails_the_next_takes_its_place(upstream: Upstream) -> None:
    upstream.script(later(1, down()), silent(), says("hello"))

    assert await text(await race(upstream, call(targets=[*ABC, "d"]), width=2)) == "hello"
    assert upstream.asked == ["a", "b", "c"]


async def test_nobody_takes_the_place_of_one_to_whom_the_call_was_wrong(upstream: Upstream) -> None:
    upstream.script(refuses(422), later(1, says("hello")))

    assert await text(await race(upstream, call(targets=ABC), width=2)) == "hello"
    assert upstream.asked == ["a", "b"]


async def test_a_race_is_no_wider_than_the_attempts_of_a_call(upstream: Upstream) -> None:
    upstream.script(later(1, refuses(503)), later(2, says("hello")))
    asked = call(targets=ABC)

    reply = await ask(Race(), upstream=upstream, call=asked, most=2)

    assert await text(reply) == "hello"
    assert upstream.asked == ["a", "b"]


# Targets that rest


async def test_those_that_rest_are_asked_last(upstream: Upstream) -> None:
    asked, rests = call(targets=ABC), Rests()
    rests.rest(("a", None), 9, why="it asked to wait")

    await text(await race(upstream, asked, width=1, rests=rests))

    assert upstream.asked == ["b"]


async def test_those_that_are_closed_are_no_attempts(upstream: Upstream) -> None:
    asked, rests = call(targets=ABC), Rests()
    for name in ("a", "b"):
        rests.rest((name, None), 9, why="the breaker is open", closed=True)
    upstreams = {name: ConfiguredUpstream(name=name, forward=upstream) for name in ABC}

    answer = compose([Race(rests=rests)], Attempts(upstreams, most=1, rests=rests))

    assert await text(await answer(asked)) == "hello"
    assert upstream.asked == ["c"]


# When all fail


@pytest.mark.parametrize(
    ("acts", "status"),
    [
        ([refuses(500), refuses(400), refuses(422)], 400),  # it is the client's fault everywhere
        ([refuses(429), refuses(404), refuses(503)], 404),
        ([refuses(429, retry_after=9), refuses(503, retry_after=2), refuses(504)], 503),
        ([refuses(429), refuses(503), refuses(504)], 504),
        ([later(9, refuses(429)), later(5, refuses(503)), refuses(504)], 504),
    ],
)
async def test_the_client_is_told_what_is_most_useful(
    upstream: Upstream, acts: list[Act], status: int
) -> None:
    upstream.script(*acts)

    with pytest.raises(UpstreamError) as caught:
        await race(upstream, call(targets=ABC))

    assert caught.value.status == status


async def test_that_no_attempt_was_left_is_told_last(upstream: Upstream) -> None:
    upstream.script(later(1, refuses(503)))

    with pytest.raises(UpstreamError) as caught:
        await ask(Race(), upstream=upstream, call=call(targets=ABC), most=2)

    assert caught.value.status == 503


async def test_what_is_no_failure_of_an_upstream_ends_it_at_once(upstream: Upstream) -> None:
    async def refusing(call: Call, call_next: Next) -> Reply:
        if call.targets == (Target("b"),):
            raise BadRequest("too long")
        return await call_next(call)

    upstream.script(silent())

    with pytest.raises(BadRequest):
        await ask(Race(), refusing, upstream=upstream, call=call(targets=ABC))

    assert upstream.cancelled == len(upstream.asked)


async def test_a_bug_is_not_taken_for_a_failure(upstream: Upstream) -> None:
    async def buggy(upstream: Upstream, call: Call) -> Reply:
        raise ZeroDivisionError

    upstream.script(buggy, later(1, says("hello")))

    with pytest.raises(ZeroDivisionError):
        await race(upstream, call(targets=["a", "b"]))


async def test_when_the_time_of_the_call_is_over_all_are_cancelled(upstream: Upstream) -> None:
    upstream.script(silent())

    with pytest.raises(TimedOut):
        await race(upstream, call(targets=ABC, seconds=5))

    assert upstream.cancelled == 3


# Whoever leaves


async def test_a_client_that_leaves_cancels_all(upstream: Upstream) -> None:
    upstream.script(silent())
    asked = call(targets=ABC)
    asking = asyncio.create_task(ask(Race(), upstream=upstream, call=asked))
    await settled()

    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking

    assert upstream.cancelled == 3
    assert outcomes(asked) == ["cancelled"] * 3


async def test_a_client_that_leaves_while_losers_are_closed_gets_nothing_and_leaves_nothing(
    upstream: Upstream,
) -> None:
    closing, closed = asyncio.Event(), asyncio.Event()

    async def lingers(upstream: Upstream, call: Call) -> Reply:
        try:
            await asyncio.Event().wait()
        finally:
            closing.set()
            await closed.wait()
        raise AssertionError("unreachable")

    upstream.script(lingers, later(1, says("hello")))
    asking = asyncio.create_task(ask(Race(), upstream=upstream, call=call(targets=["a", "b"])))
    await closing.wait()

    asking.cancel()
    await settled()
    assert not asking.done()
    closed.set()

    with pytest.raises(asyncio.CancelledError):
        await asking
    assert (upstream.open, upstream.closed) == (0, 1)


# Groups


async def test_groups_race_each_with_what_tries_its_members(upstream: Upstream) -> None:
    upstream.script(down(), later(1, says("b")), later(2, says("c")))
    asked = call(targets=[["a", "b"], ["c"]])

    assert await text(await ask(Race(), Fallback(), upstream=upstream, call=asked)) == "b"

    assert upstream.asked == ["a", "b", "c"]
    assert outcomes(asked) == ["failed", "ok", "cancelled"]


async def test_a_race_in_a_race_leaves_nothing_behind(upstream: Upstream) -> None:
    upstream.script(says("hello"))
    asked = call(targets=[["a", "b"], ["c", "d"]])

    reply = await ask(Race(), Race(), upstream=upstream, call=asked)

    assert (upstream.open, upstream.closed) == (1, len(upstream.asked) - 1)
    assert await text(reply) == "hello"


# What may create something


async def passed(upstream: Upstream, method: str, **headers: str) -> Reply:
    given = call(PASSTHROUGH, targets=ABC, body=b"{}", headers=headers)
    return await race(upstream, given.replace(method=method))


async def raw_hello(upstream: Upstream, call: Call) -> Reply:
    async def events() -> AsyncIterator[Event]:
        yield Event(b"hello")

    return Reply(events(), framing="raw")


@pytest.mark.parametrize(("method", "count"), [("POST", 1), ("PATCH", 1), ("GET", 3)])
async def test_what_may_create_something_is_asked_once(
    upstream: Upstream, method: str, count: int
) -> None:
    upstream.script(later(1, raw_hello))

    assert await raw(await passed(upstream, method)) == b"hello"
    assert len(upstream.asked) == count


async def test_a_key_against_repeating_holds_at_one_upstream_alone(upstream: Upstream) -> None:
    upstream.script(later(1, raw_hello))

    await raw(await passed(upstream, "POST", **{"idempotency-key": "1"}))

    assert upstream.asked == ["a"]


async def test_what_was_never_sent_may_go_to_the_next(upstream: Upstream) -> None:
    upstream.script(down(), refuses(code="connection_lost"), raw_hello)

    with pytest.raises(UpstreamError) as caught:
        await passed(upstream, "POST")

    assert upstream.asked == ["a", "b"]
    assert (caught.value.code, caught.value.elsewhere) == ("connection_lost", False)


# The record


async def test_the_record_says_who_won_and_by_how_much(upstream: Upstream) -> None:
    upstream.script(down(), silent(), later(1, says("hello")))
    asked = call(targets=["a", "b", "c/large"])

    await text(await race(upstream, asked))

    [raced] = asked.record.races
    assert (raced.plugin, raced.winner, raced.of) == ("race", Target("c", "large"), 3)
    assert raced.margin is not None
    assert 0 <= raced.margin < 1


async def test_one_that_was_left_alone_has_won_without_a_margin(upstream: Upstream) -> None:
    upstream.script(down(), later(1, says("hello")))
    asked = call(targets=["a", "b"])

    await text(await race(upstream, asked))

    assert asked.record.races[0].margin is None


async def test_one_that_was_asked_alone_has_won_no_race(upstream: Upstream) -> None:
    asked = call()

    await text(await race(upstream, asked))

    assert asked.record.races == []


async def test_who_answers_without_being_asked_can_win(upstream: Upstream) -> None:
    async def cache(call: Call, call_next: Next) -> Reply:
        return Reply.plain({"choices": [{"message": {"content": "kept"}}]})

    asked = call(targets=["a", "b"])

    assert await text(await ask(Race(), cache, upstream=upstream, call=asked)) == "kept"
    assert asked.record.races[0].winner == Target("a")


def test_time_in_which_two_were_working_counts_once() -> None:
    record = Record(id="req_1", method="POST", path="/", started=10.0, first_byte=18.0)
    record.attempts = [
        Attempt(target=Target("a"), started=11.0, ended=15.0),
        Attempt(target=Target("b"), started=12.0, first_output=14.0),
        Attempt(target=Target("c"), started=16.0),
    ]

    assert record.overhead == 2.0  # before the first one, and before the last


def test_it_asks_at_least_one() -> None:
    with pytest.raises(ValueError, match="width must be at least 1, found 0"):
        Race(width=0)


def test_it_belongs_into_a_route() -> None:
    upstreams = "upstreams: {a: mock, b: mock}\n"
    gateway(upstreams + "routes: {fast: {chain: [race: {width: 2}], targets: [a, b]}}")

    with pytest.raises(ConfigError, match="put it into the chain of a route"):
        gateway(upstreams + "server: {chain: [race]}\nroutes: {fast: a}")
