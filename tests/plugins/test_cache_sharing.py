"""`cache`: who asks what another is being given the answer to hears it, too."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import pytest

from headrace import Call, CallError, Duration, Event, Reply, Size, TimedOut, UpstreamError
from headrace.telling import telling
from headrace.testing import Clock, Upstream, ask, down, refuses, says, settled, text
from headrace_plugins.cache import Cache
from headrace_plugins.race import Race

from .cache.asking import answer, asked, status, values
from .cache.tap import Tap

STREAM: Any = {"stream": True}


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    before = len(asyncio.all_tasks())
    upstream = Upstream()
    yield upstream
    await settled()
    assert upstream.open == 0
    assert len(asyncio.all_tasks()) == before, "something is still running"


async def begun(cache: Cache, upstream: Upstream, given: Call) -> asyncio.Task[bytes]:
    """Somebody who asks, up to where nothing more can be done."""
    task = asyncio.create_task(answer(cache, upstream, given))
    await settled()
    return task


def said(event: Event) -> Any:
    """The text of an event."""
    return event.json["choices"][0]["delta"].get("content")


async def said_all(task: asyncio.Task[bytes]) -> str:
    """All the text of a stream."""
    told = [v for v in values(await task) if v != "DONE"]
    return "".join(v["choices"][0]["delta"].get("content") or "" for v in told)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_a_thousand_who_ask_at_once_ask_the_upstream_once(
    upstream: Upstream, stream: bool
) -> None:
    cache = Cache()
    upstream.script(says(*(["word "] * 40 if stream else ["words"])))
    calls = [asked(stream=stream) for _ in range(1000)]

    answers = await asyncio.gather(*(answer(cache, upstream, given) for given in calls))

    assert len(set(answers)) == 1
    assert len(upstream.asked) == 1
    assert [status(given) for given in calls].count("shared") == 999


async def test_who_comes_late_hears_what_was_said_so_far_then_the_rest(upstream: Upstream) -> None:
    cache, tap = Cache(), Tap("one ", "two ", "three")
    upstream.script(tap)
    leader = await begun(cache, upstream, asked(**STREAM))
    tap.go(2)
    late = await ask(cache, upstream=upstream, call=asked(**STREAM))

    heard = [said(await anext(late.events)) for _ in range(2)]
    rest = asyncio.create_task(text(late))
    await settled()
    tap.go(2)

    assert heard == ["one ", "two "]
    assert await rest == "three"
    assert values(await leader)[-1] == "DONE"


async def test_each_one_hears_it_in_the_form_that_it_asked_for(upstream: Upstream) -> None:
    cache = Cache()
    for first, second in ((True, False), (False, True)):
        tap = Tap("one ", "two")
        upstream.script(tap)
        n = int(first)
        one = await begun(cache, upstream, asked(stream=first, n=n))
        other_call = asked(stream=second, n=n)
        other = await begun(cache, upstream, other_call)
        tap.go(3)

        answers = {first: await one, second: await other}

        assert values(answers[True])[-1] == "DONE"
        assert b'"chat.completion"' in answers[False]
        assert b"one two" in answers[False]
        assert status(other_call) == "shared"
    assert len(upstream.asked) == 2


async def test_usage_is_told_to_those_alone_who_ask_for_it(upstream: Upstream) -> None:
    cache = Cache()
    wants = {**STREAM, "stream_options": {"include_usage": True}}
    given = [asked(**STREAM), asked(**wants), asked(**STREAM)]

    answers = await asyncio.gather(*(answer(cache, upstream, each) for each in given))

    told = [[v for v in values(each) if v != "DONE" and v.get("usage")] for each in answers]
    assert [len(each) for each in told] == [0, 1, 0]
    assert given[1].record.cache
    assert given[1].record.cache.saved
    assert given[1].record.cache.saved.output == 2


async def test_the_work_goes_on_when_the_one_leaves_who_asked_first(upstream: Upstream) -> None:
    cache, tap = Cache(), Tap("one ", "two")
    upstream.script(tap)
    tap.go()
    leader = await ask(cache, upstream=upstream, call=asked(**STREAM))
    follower = await begun(cache, upstream, asked(**STREAM))

    leaving = asyncio.create_task(leader.aclose(asyncio.CancelledError()))
    await settled()
    tap.go(2)

    assert await said_all(follower) == "one two"
    await leaving
    again = asked(**STREAM)
    await answer(cache, upstream, again)
    assert status(again) == "hit"


async def test_the_work_ends_when_the_last_one_leaves(upstream: Upstream) -> None:
    cache, tap = Cache(), Tap("one ", "two")
    upstream.script(tap)
    tap.go()
    replies = [await ask(cache, upstream=upstream, call=asked(**STREAM)) for _ in range(3)]
    leaving = []
    for reply in replies:
        assert upstream.open == 1
        leaving.append(asyncio.create_task(reply.aclose(asyncio.CancelledError())))
        await settled()

    assert upstream.open == 0
    assert all(task.done() for task in leaving)


@pytest.mark.parametrize("stream", [False, True], ids=["before the first output", "after it"])
async def test_the_one_who_asked_first_is_not_over_before_the_work_is(
    upstream: Upstream, stream: bool
) -> None:
    cache, tap = Cache(), Tap("hello")
    upstream.script(tap)
    tap.go(int(stream))
    given = asked(stream=stream)
    leader = await begun(cache, upstream, given)
    follower = await begun(cache, upstream, asked(stream=stream))

    given.record.left = True
    leader.cancel()
    await settled()
    assert not leader.done()
    tap.go()

    assert b"hello" in await follower
    with pytest.raises(asyncio.CancelledError):
        await leader


async def test_the_one_who_asked_first_is_over_when_its_own_time_is(
    upstream: Upstream, clock: Clock
) -> None:
    cache, tap = Cache(), Tap("one ", "two")
    upstream.script(tap)
    tap.go()
    given = asked(seconds=5, **STREAM)
    given.record.left = True
    leader = await ask(cache, upstream=upstream, call=given)
    follower = await begun(cache, upstream, asked(**STREAM))

    clock.advance(6)
    await leader.aclose(TimedOut("the time for this call is over"))
    assert not follower.done()
    tap.go(2)

    assert await said_all(follower) == "one two"


async def test_who_asked_first_and_has_lost_a_race_holds_nobody_up(upstream: Upstream) -> None:
    cache, quick = Cache(), Tap("one ", "two")

    async def quick_or_never(upstream: Upstream, call: Call) -> Reply:
        if upstream.asked[-1] == "b":
            await asyncio.Event().wait()
        return await quick(upstream, call)

    upstream.script(quick_or_never)
    asks = [
        asyncio.create_task(ask(Race(), cache, upstream=upstream, call=given))
        for given in (asked(targets=["a", "b"], stream=stream) for stream in (True, False))
    ]
    await settled()
    quick.go()
    await settled()

    streamed, plain = asks
    assert (streamed.done(), plain.done()) == (True, False), "both still ask b"
    quick.go(2)
    assert await text(await streamed) == "one two"
    assert await text(await plain) == "one two"


async def test_who_leaves_before_the_first_output_takes_nothing_from_the_others(
    upstream: Upstream,
) -> None:
    cache, tap = Cache(), Tap("hello")
    upstream.script(tap)
    leader = await begun(cache, upstream, asked())
    follower = await begun(cache, upstream, asked())

    leader.cancel()
    await settled()
    tap.go()

    assert b"hello" in await follower
    await asyncio.wait((leader,))
    assert leader.cancelled()
    assert upstream.cancelled == 0


async def test_all_who_leave_before_the_first_output_cancel_the_upstream(
    upstream: Upstream,
) -> None:
    cache = Cache()
    upstream.script(Tap("hello"))
    waiting = [await begun(cache, upstream, asked()) for _ in range(3)]

    for task in waiting:
        task.cancel()
    await settled()

    assert upstream.cancelled == 1
    assert all(task.cancelled() for task in waiting)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_a_failure_before_the_first_output_hands_over_to_the_next(
    upstream: Upstream, stream: bool
) -> None:
    cache = Cache()
    upstream.script(down(), says("hello"))
    calls = [asked(stream=stream) for _ in range(5)]

    answers = await asyncio.gather(
        *(answer(cache, upstream, given) for given in calls), return_exceptions=True
    )

    assert isinstance(answers[0], UpstreamError)
    assert all(isinstance(each, bytes) and b"hello" in each for each in answers[1:])
    assert len(upstream.asked) == 2
    assert [status(given) for given in calls] == ["miss", "miss", "shared", "shared", "shared"]


async def test_an_upstream_that_is_down_is_asked_a_few_times_for_a_thousand(
    upstream: Upstream,
) -> None:
    cache = Cache()
    upstream.script(down())

    answers = await asyncio.gather(
        *(answer(cache, upstream, asked()) for _ in range(1000)), return_exceptions=True
    )

    assert {type(each) for each in answers} == {UpstreamError}
    assert len(upstream.asked) == 3


async def test_a_question_that_is_refused_is_refused_to_all(upstream: Upstream) -> None:
    cache = Cache()
    upstream.script(refuses(422))
    calls = [asked() for _ in range(5)]

    answers = await asyncio.gather(
        *(answer(cache, upstream, given) for given in calls), return_exceptions=True
    )

    assert {each.status for each in answers if isinstance(each, CallError)} == {422}
    assert len({id(each) for each in answers}) == 5, "one error is told to several"
    assert len(upstream.asked) == 1


async def test_a_failure_after_the_first_output_is_told_to_everyone(upstream: Upstream) -> None:
    cache = Cache()
    tap = Tap("one ", fails=UpstreamError("cut", code="upstream_truncated"))
    upstream.script(tap)
    calls = [asked(**STREAM), asked(**STREAM), asked()]
    tasks = [await begun(cache, upstream, given) for given in calls]
    tap.go(2)

    answers = await asyncio.gather(*tasks, return_exceptions=True)

    assert [getattr(each, "code", None) for each in answers] == ["upstream_truncated"] * 3
    assert len(upstream.asked) == 1
    again = asked(**STREAM)
    upstream.script(says("hello"))
    await answer(cache, upstream, again)
    assert status(again) == "miss"


async def test_tenants_share_no_answer_that_is_on_its_way(upstream: Upstream) -> None:
    cache = Cache()
    calls = [asked(tenant=tenant) for tenant in ("red", "blue", "red", "blue")]

    await asyncio.gather(*(answer(cache, upstream, given) for given in calls))

    assert len(upstream.asked) == 2
    assert [status(given) for given in calls] == ["miss", "miss", "shared", "shared"]


async def test_each_one_waits_no_longer_than_its_own_time(upstream: Upstream, clock: Clock) -> None:
    cache, tap = Cache(), Tap("hello")
    upstream.script(tap)
    leader = await begun(cache, upstream, asked())
    hasty = await begun(cache, upstream, asked(seconds=5))

    clock.advance(6)
    with pytest.raises(CallError) as late:
        await hasty
    tap.go()

    assert late.value.code == "total_timeout"
    assert b"hello" in await leader


async def test_an_answer_may_be_asked_for_by_everyone_alone(upstream: Upstream) -> None:
    cache = Cache(single_flight=False)

    await asyncio.gather(*(answer(cache, upstream, asked()) for _ in range(3)))

    assert len(upstream.asked) == 3


async def test_who_shares_is_told_so(upstream: Upstream) -> None:
    cache = Cache()
    calls = [asked(), asked()]

    await asyncio.gather(*(answer(cache, upstream, given) for given in calls))

    told = telling(calls[1].record)
    assert told["cache-status"] == "headrace; fwd=miss; collapsed"
    assert told["x-headrace-cache"] == "shared"
    assert told["x-headrace-attempts"] == "0"


# While an answer is kept


@pytest.mark.parametrize("said", ["no-cache", "max-age=0"])
async def test_who_wants_it_anew_keeps_no_one_else_from_the_kept_answer(
    upstream: Upstream, said: str
) -> None:
    cache, tap = Cache(), Tap("new")
    upstream.script(says("old"), tap)
    await answer(cache, upstream, asked())
    anew = await begun(cache, upstream, asked(headers={"cache-control": said}))
    given = asked()

    kept = await begun(cache, upstream, given)
    at_once = kept.done()
    tap.go()

    assert at_once
    assert b"old" in await kept
    assert status(given) == "hit"
    assert b"new" in await anew


async def test_everybody_is_given_the_old_answer_while_a_new_one_is_asked_for(
    upstream: Upstream, clock: Clock
) -> None:
    cache = Cache(ttl=Duration(60), stale_while_revalidate=Duration(60))
    tap = Tap("new", fails=UpstreamError("down", code="connect_failed"))
    upstream.script(says("old"), tap)
    await answer(cache, upstream, asked())
    clock.advance(90)
    calls = [asked() for _ in range(3)]

    tasks = [await begun(cache, upstream, given) for given in calls]
    at_once = [task.done() for task in tasks]
    tap.go()

    assert at_once == [True] * 3
    assert all(b"old" in each for each in await asyncio.gather(*tasks))
    assert [status(given) for given in calls] == ["stale"] * 3
    await settled()
    assert len(upstream.asked) == 2


async def test_who_hears_a_new_answer_that_runs_out_of_time_is_told_so(
    upstream: Upstream, clock: Clock
) -> None:
    cache = Cache(ttl=Duration(60), stale_while_revalidate=Duration(60))
    tap = Tap("one ", "two")
    upstream.script(says("old"), tap)
    await answer(cache, upstream, asked(**STREAM))
    clock.advance(90)
    await answer(cache, upstream, asked(seconds=60, **STREAM))
    tap.go()
    clock.advance(40)
    late = await begun(cache, upstream, asked(**STREAM))

    clock.advance(30)

    with pytest.raises(TimedOut):
        await late
    assert len(upstream.asked) == 2


@pytest.mark.parametrize("many", [True, False], ids=["shared", "alone"])
async def test_a_new_answer_is_asked_for_once_however_many_are_given_the_old_one(
    upstream: Upstream, clock: Clock, many: bool
) -> None:
    cache = Cache(ttl=Duration(60), stale_while_revalidate=Duration(60), single_flight=many)
    tap = Tap("new")
    upstream.script(says("old"), tap, says("another"))
    await answer(cache, upstream, asked())
    clock.advance(90)

    olds = [await answer(cache, upstream, asked()) for _ in range(5)]
    await settled()
    assert len(upstream.asked) == 2
    tap.go()
    await settled()

    assert all(b"old" in each for each in olds)
    assert b"new" in await answer(cache, upstream, asked())
    assert len(upstream.asked) == 2


# Slow readers, and answers that are too large


async def test_a_reader_that_is_slow_holds_nobody_up(upstream: Upstream) -> None:
    cache = Cache()
    upstream.script(says(*["word "] * 100))
    slow, quick = [await ask(cache, upstream=upstream, call=asked(**STREAM)) for _ in range(2)]
    await anext(slow.events)

    assert len(await text(quick)) == 500
    assert len(await text(slow)) == 500


async def test_one_that_reads_alone_holds_the_upstream_back(upstream: Upstream) -> None:
    cache = Cache(largest=Size(10_000))
    tap = Tap(*["x" * 1000] * 100)
    tap.go(101)
    upstream.script(tap)

    reply = await ask(cache, upstream=upstream, call=asked(**STREAM))
    await settled()

    assert tap.given < 20
    assert len(await text(reply)) == 100_000
    assert tap.given == 100


async def test_one_that_falls_behind_a_large_answer_is_cut_off_and_the_others_are_not(
    upstream: Upstream,
) -> None:
    cache = Cache(largest=Size(10_000))
    tap = Tap(*["x" * 1000] * 100)
    upstream.script(tap)
    tap.go()
    replies = [await ask(cache, upstream=upstream, call=asked(**STREAM)) for _ in range(3)]
    slow, *quick = replies
    await anext(slow.events)
    reading = [asyncio.create_task(text(reply)) for reply in quick]
    tap.go(100)

    assert [len(await each) for each in reading] == [100_000] * 2
    with pytest.raises(CallError) as cut:
        await text(slow)
    assert cut.value.code == "reader_too_slow"


async def test_nobody_joins_an_answer_whose_beginning_is_gone(upstream: Upstream) -> None:
    cache = Cache(largest=Size(2_000))
    tap = Tap(*["x" * 1000] * 10)
    upstream.script(tap, says("hello"))
    leader = await begun(cache, upstream, asked(**STREAM))
    tap.go(5)
    await settled()
    newcomer = asked(**STREAM)

    assert await text(await ask(cache, upstream=upstream, call=newcomer)) == "hello"
    assert status(newcomer) == "miss"
    tap.go(6)
    assert len(await said_all(leader)) == 10_000


async def test_one_that_wants_the_whole_of_what_is_too_large_asks_by_itself(
    upstream: Upstream,
) -> None:
    cache = Cache(largest=Size(2_000))
    tap = Tap(*["x" * 1000] * 10)
    upstream.script(tap, says("hello"))
    leader = await begun(cache, upstream, asked(**STREAM))
    whole = await begun(cache, upstream, asked())
    tap.go(11)

    assert b"hello" in await whole
    assert len(await said_all(leader)) == 10_000


async def test_when_only_those_are_left_who_want_the_whole_the_work_ends_as_it_outgrows_them(
    upstream: Upstream,
) -> None:
    cache = Cache(largest=Size(2_000))
    tap = Tap(*["x" * 1000] * 10)
    upstream.script(tap, says("hello"))
    tap.go()
    leader = await ask(cache, upstream=upstream, call=asked(**STREAM))
    whole = await begun(cache, upstream, asked())
    leaving = asyncio.create_task(leader.aclose(asyncio.CancelledError()))
    await settled()
    tap.go(10)

    assert b"hello" in await whole
    assert tap.given < 5
    await leaving


async def test_what_is_held_of_a_large_answer_is_bounded(upstream: Upstream) -> None:
    cache = Cache(largest=Size(10_000))
    upstream.script(says(*["x" * 1000] * 1000))
    reply = await ask(cache, upstream=upstream, call=asked(**STREAM))
    held = []

    async for _ in reply.events:
        (flight,) = cache._sharing._flights._running.values()
        held.append(sum(len(event.raw) for event in flight.events))
    await reply.aclose()

    assert max(held) < 15_000


async def test_a_thousand_readers_hold_one_answer_and_slow_ones_harm_nobody(
    upstream: Upstream,
) -> None:
    cache = Cache(largest=Size(2_000_000))
    upstream.script(says(*["x" * 1000] * 900))
    calls = [asked(**STREAM) for _ in range(1000)]
    slow = [await ask(cache, upstream=upstream, call=given) for given in calls]
    for reply in slow:
        await anext(reply.events)

    tracemalloc.start()
    quick = await ask(cache, upstream=upstream, call=asked(**STREAM))
    assert len(await text(quick)) == 900_000
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert len(upstream.asked) == 1
    assert held < 40_000_000, "each reader holds what it has not read"
    assert {len(await text(reply)) for reply in slow} == {900_000}


# Closing


async def test_closing_ends_what_is_under_way_and_tells_those_who_wait(upstream: Upstream) -> None:
    upstream.script(Tap("hello"))
    async with Cache() as cache:
        waiting = [await begun(cache, upstream, asked()) for _ in range(2)]

    answers = await asyncio.gather(*waiting, return_exceptions=True)

    assert [getattr(each, "code", None) for each in answers] == ["shutting_down"] * 2
    assert upstream.cancelled == 1


async def test_a_fault_below_is_told_to_all_who_wait(upstream: Upstream) -> None:
    async def faulty(call: Call, call_next: Any) -> Reply:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    cache = Cache()
    asks = [ask(cache, faulty, upstream=upstream, call=asked()) for _ in range(3)]
    failed = await asyncio.gather(*asks, return_exceptions=True)

    assert {type(each) for each in failed} == {ZeroDivisionError}
