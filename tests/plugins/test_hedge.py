"""`hedge`: the next target is asked beside one that is slow, and the first good reply wins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Literal

import pytest

from headrace import (
    PASSTHROUGH,
    Call,
    Duration,
    Event,
    Plugin,
    Reply,
    Rests,
    Target,
    UpstreamError,
)
from headrace.testing import (
    Clock,
    Upstream,
    ask,
    call,
    down,
    raw,
    refuses,
    says,
    silent,
    text,
)
from headrace.testing.script import Act
from headrace_plugins.fallback import Fallback
from headrace_plugins.hedge import Hedge
from headrace_plugins.retry import Retry

AB = ("a", "b")
ABC = ("a", "b", "c")


class Watched(Upstream):
    """Notes when it was asked, in seconds after the first time."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        clock.jumps = True
        self._clock = clock
        self._times: list[float] = []

    @property
    def times(self) -> list[float]:
        return [round(time - self._times[0], 1) for time in self._times]

    def script(self, *acts: Act) -> None:
        super().script(*acts)
        self.asked.clear()
        self._times.clear()

    async def __call__(self, call: Call) -> Reply:
        self._times.append(self._clock.now)
        return await super().__call__(call)


@pytest.fixture
async def upstream(clock: Clock) -> AsyncIterator[Watched]:
    before = len(asyncio.all_tasks())
    yield Watched(clock)
    assert len(asyncio.all_tasks()) == before, "something is still running"


def later(seconds: float, act: Act) -> Act:
    async def acting(upstream: Upstream, call: Call) -> Reply:
        await asyncio.sleep(seconds)
        reply: Reply = await act(upstream, call)
        return reply

    return acting


def hedge(after: float | Literal["p95"] = 1, *, most: int = 1, share: float = 1) -> Hedge:
    waits: Duration | Literal["p95"] = Duration(after) if after != "p95" else "p95"
    return Hedge(after=waits, most=most, share=share)


async def said(plugin: Plugin, upstream: Upstream, asked: Call) -> str:
    before = len(asyncio.all_tasks())
    reply = await ask(plugin, upstream=upstream, call=asked)
    assert len(asyncio.all_tasks()) == before, "something is still running"
    return await text(reply)


async def test_nobody_below_waits_for_one_that_is_limited_while_another_is_free(
    upstream: Watched,
) -> None:
    upstream.script(refuses(429, retry_after=3), says("hello"))

    reply = await ask(hedge(9), Retry(), call=call(targets=AB), upstream=upstream)

    assert await text(reply) == "hello"
    assert upstream.asked == ["a", "b"]
    assert upstream.times == [0, 0]


async def test_one_that_is_quick_is_asked_alone(upstream: Watched) -> None:
    upstream.script(later(0.9, says("hello")))

    assert await said(hedge(), upstream, call(targets=ABC)) == "hello"

    assert upstream.asked == ["a"]


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_the_next_is_asked_beside_one_that_is_slow(upstream: Watched, stream: bool) -> None:
    upstream.script(later(9, says("slow")), later(0.5, says("quick")))
    asked = call(targets=ABC, stream=stream)

    assert await said(hedge(2), upstream, asked) == "quick"

    assert (upstream.asked, upstream.times) == (["a", "b"], [0, 2])
    assert [attempt.outcome for attempt in asked.record.attempts] == ["cancelled", "ok"]


async def test_the_slow_one_may_still_win(upstream: Watched) -> None:
    upstream.script(later(3, says("slow")), later(5, says("slower")))

    assert await said(hedge(), upstream, call(targets=ABC)) == "slow"

    assert upstream.cancelled == 1


@pytest.mark.parametrize("most", [1, 2])
async def test_no_more_than_most_are_asked_beside_the_first(upstream: Watched, most: int) -> None:
    upstream.script(later(9, says("hello")))

    await said(hedge(most=most), upstream, call(targets=[*ABC, "d"]))

    assert upstream.times == [0, 1, 2][: most + 1]


async def test_when_one_fails_the_next_is_asked_at_once(upstream: Watched) -> None:
    upstream.script(later(0.4, down()), later(0.9, says("hello")))

    assert await said(hedge(), upstream, call(targets=ABC)) == "hello"

    assert (upstream.asked, upstream.times) == (["a", "b"], [0, 0.4])


async def test_the_next_has_as_much_time_as_the_first_had(upstream: Watched) -> None:
    upstream.script(later(0.4, down()), silent(), says("hello"))

    assert await said(hedge(), upstream, call(targets=ABC)) == "hello"

    assert upstream.times == [0, 0.4, 1.4]


async def test_when_one_of_two_fails_the_other_goes_on_beside_the_next(upstream: Watched) -> None:
    upstream.script(later(2, down()), later(5, says("second")), silent())

    assert await said(hedge(), upstream, call(targets=ABC)) == "second"

    assert upstream.times == [0, 1, 2]


async def test_what_the_client_did_wrong_is_wrong_everywhere(upstream: Watched) -> None:
    upstream.script(refuses(422))

    with pytest.raises(UpstreamError) as caught:
        await said(hedge(), upstream, call(targets=ABC))

    assert (caught.value.status, upstream.asked) == (422, ["a"])


async def test_a_client_that_leaves_cancels_all(upstream: Watched) -> None:
    upstream.script(silent())
    asking = asyncio.create_task(ask(hedge(), upstream=upstream, call=call(targets=AB, seconds=99)))
    while len(upstream.asked) < 2:
        await asyncio.sleep(1)

    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking

    assert upstream.cancelled == 2


async def test_those_that_rest_are_asked_last(upstream: Watched) -> None:
    rests = Rests()
    rests.rest(("a", None), 9, why="it asked to wait")

    await said(Hedge(rests=rests), upstream, call(targets=AB))

    assert upstream.asked == ["b"]


async def test_a_group_is_hedged_as_a_whole(upstream: Watched) -> None:
    upstream.script(down(), silent(), says("hello"))
    asked = call(targets=[["a", "b"], ["c"]])

    assert await text(await ask(hedge(), Fallback(), upstream=upstream, call=asked)) == "hello"

    assert (upstream.asked, upstream.times) == (["a", "b", "c"], [0, 0, 1])


@pytest.mark.parametrize(("method", "count"), [("POST", 1), ("GET", 2)])
async def test_what_may_create_something_is_asked_once(
    upstream: Watched, method: str, count: int
) -> None:
    async def slow(upstream: Upstream, call: Call) -> Reply:
        await asyncio.sleep(5)

        async def events() -> AsyncIterator[Event]:
            yield Event(b"hello")

        return Reply(events(), framing="raw")

    upstream.script(slow)
    given = call(PASSTHROUGH, targets=ABC, body=b"\x00 no JSON").replace(method=method)

    assert await raw(await ask(hedge(), upstream=upstream, call=given)) == b"hello"
    assert len(upstream.asked) == count


async def test_the_record_says_who_won(upstream: Watched) -> None:
    upstream.script(silent(), says("hello"))
    asked = call(targets=["a", "b/large"])

    await said(hedge(), upstream, asked)

    [raced] = asked.record.races
    assert (raced.plugin, raced.winner, raced.of) == ("hedge", Target("b", "large"), 2)


# How long is too long


async def times(plugin: Hedge, upstream: Watched, asked: Call) -> list[float]:
    """When targets are asked by a call of which the first is silent."""
    upstream.script(silent(), says("hello"))
    await said(plugin, upstream, asked)
    return upstream.times


async def fill(
    plugin: Hedge, upstream: Watched, seconds: list[float], *, stream: bool = False
) -> None:
    """Calls of the first target alone that take so long."""
    upstream.script(*(later(each, says("hello")) for each in seconds))
    for _ in seconds:
        await said(plugin, upstream, call(targets=["a"], stream=stream))


async def test_until_enough_is_known_the_default_counts(upstream: Watched) -> None:
    plugin = Hedge()
    await fill(plugin, upstream, [0.1] * 19)

    assert await times(plugin, upstream, call(targets=AB)) == [0, 2]
    # That was the twentieth, and the longest.
    assert await times(plugin, upstream, call(targets=AB)) == [0, 2]


async def test_then_what_95_of_100_calls_take(upstream: Watched) -> None:
    plugin = Hedge()
    await fill(plugin, upstream, [0.1] * 95 + [0.5, 1.2, 1.3, 1.4, 1.5])

    assert await times(plugin, upstream, call(targets=AB)) == [0, 0.5]


async def test_what_was_long_ago_is_forgotten(upstream: Watched) -> None:
    plugin = Hedge()
    await fill(plugin, upstream, [1.9] * 100 + [0.3] * 128)

    assert await times(plugin, upstream, call(targets=AB)) == [0, 0.3]


async def test_each_kind_of_call_has_a_time_of_its_own(upstream: Watched) -> None:
    plugin = Hedge(share=1)
    await fill(plugin, upstream, [1.5] * 20)
    await fill(plugin, upstream, [0.3] * 20, stream=True)

    assert await times(plugin, upstream, call(targets=AB)) == [0, 1.5]
    assert await times(plugin, upstream, call(targets=AB, stream=True)) == [0, 0.3]
    assert await times(plugin, upstream, call("embedding", targets=AB)) == [0, 2]
    assert await times(plugin, upstream, call(targets=["a/other", "b"])) == [0, 2]


async def test_failures_are_not_counted_as_quick(upstream: Watched) -> None:
    plugin = Hedge()
    upstream.script(*[down(), says("hello")] * 20)
    for _ in range(20):
        await said(plugin, upstream, call(targets=AB))

    assert await times(plugin, upstream, call(targets=AB)) == [0, 2]


async def test_those_that_were_too_slow_to_win_still_count(upstream: Watched) -> None:
    """Else a target that is slow one time in ten would be given less and less time."""
    plugin = Hedge(share=1)
    for _ in range(20):
        await fill(plugin, upstream, [0.1] * 9)
        upstream.script(silent(), later(1, says("hello")))
        await said(plugin, upstream, call(targets=AB))

        assert upstream.times == [0, 2]


async def test_those_that_lost_before_their_time_was_over_do_not(upstream: Watched) -> None:
    plugin = Hedge(share=1)
    for _ in range(20):  # the second is cancelled after a moment each time
        upstream.script(later(2.1, says("slow")), silent())
        await said(plugin, upstream, call(targets=["b", "a"]))

    await fill(plugin, upstream, [0.1] * 20)

    assert await times(plugin, upstream, call(targets=AB)) == [0, 0.1]


async def test_of_many_models_the_ones_not_asked_for_long_are_forgotten(
    upstream: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace_plugins.hedge._MOST", 2)
    plugin = Hedge()
    await fill(plugin, upstream, [0.5] * 20)

    upstream.script(says("hello"))
    for model in ("a/one", "a/two"):
        await said(plugin, upstream, call(targets=[model, "b"]))

    assert await times(plugin, upstream, call(targets=AB)) == [0, 2]


# How often


async def test_of_a_hundred_slow_calls_ten_and_a_few_are_hedged(upstream: Watched) -> None:
    plugin = hedge(share=0.1)
    upstream.script(later(5, says("hello")))

    for _ in range(100):
        await said(plugin, upstream, call(targets=AB))

    assert 12 <= upstream.asked.count("b") <= 13


async def test_what_is_not_hedged_for_a_while_is_not_saved_up(upstream: Watched) -> None:
    plugin = hedge(share=0.1)
    await fill(plugin, upstream, [0.1] * 100)

    upstream.script(later(5, says("hello")))
    for _ in range(5):
        await said(plugin, upstream, call(targets=AB))

    assert upstream.asked.count("b") == 3


async def test_asking_elsewhere_after_a_failure_is_no_hedging(upstream: Watched) -> None:
    plugin = hedge(share=0.01)
    upstream.script(*[down(), says("hello")] * 20)
    for _ in range(20):
        await said(plugin, upstream, call(targets=AB))

    assert await times(plugin, upstream, call(targets=AB)) == [0, 1]


async def test_where_none_may_be_asked_beside_it_the_slow_one_is_waited_for(
    upstream: Watched,
) -> None:
    plugin = hedge(share=0.01)
    for _ in range(3):
        await times(plugin, upstream, call(targets=AB))
    upstream.script(later(50, says("slow")))

    assert await said(plugin, upstream, call(targets=AB)) == "slow"

    assert upstream.asked == ["a"]


@pytest.mark.parametrize(
    ("most", "share", "message"),
    [
        (0, 0.1, "most must be at least 1, found 0"),
        (1, 0, "share must be more than 0 and at most 1, found 0"),
        (1, 1.5, "share must be more than 0 and at most 1, found 1.5"),
    ],
)
def test_what_makes_no_sense_is_refused(most: int, share: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Hedge(most=most, share=share)
