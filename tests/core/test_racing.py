"""Several targets side by side, whatever they do: one wins, and nothing of the others is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace import Attempt, Call, CallError, Event, Next, Reply, first_good
from headrace.testing import Clock, ClockLoop, Upstream, ask, call, chunk, down, refuses, says, text
from headrace.testing.script import Act

CASES = 300


@dataclass(frozen=True)
class Turn:
    """What a target does, and after how many seconds."""

    seconds: int
    how: Literal["answers", "is down", "refuses", "is silent", "begins"]


async def begins(upstream: Upstream, call: Call) -> Reply:
    """A stream that says who speaks, and no more; of a plain answer, not even its head."""

    async def events() -> AsyncIterator[Event]:
        yield Event.saying(chunk(role="assistant", content=""), "sse")
        await asyncio.Event().wait()

    if not call.dialect.streams(call):
        await asyncio.Event().wait()
    return Reply(events(), framing="sse")


ACTS: dict[str, Act] = {
    "answers": says("hello"),
    "is down": down(),
    "refuses": refuses(422),
    "begins": begins,
}


class Scripted(Upstream):
    """Targets that are named by their place among the turns."""

    def __init__(self, turns: list[Turn]) -> None:
        super().__init__()
        self.turns = turns
        self.most_at_once = 0
        self._at_once = 0
        self.script(self.act)

    async def act(self, upstream: Upstream, call: Call) -> Reply:
        attempt = call.told(Attempt)
        assert attempt
        turn = self.turns[int(attempt.target.upstream)]
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await asyncio.sleep(999 if turn.how == "is silent" else turn.seconds)
            reply: Reply = await ACTS[turn.how](upstream, call)
        finally:
            self._at_once -= 1
        return reply


def turns() -> st.SearchStrategy[list[Turn]]:
    how = st.sampled_from(["answers", "is down", "refuses", "is silent", "begins"])
    return st.lists(st.builds(Turn, st.integers(0, 3), how), min_size=1, max_size=5)


@dataclass
class Ran:
    """What became of a call."""

    asked: Call
    upstream: Scripted
    reply: Reply | None = None
    error: CallError | None = None


async def run(
    turns: list[Turn],
    *,
    width: int | None,
    delay: int | None = None,
    leaves: float | None = None,
    stream: bool,
) -> Ran:
    """Ask them all, leaving after so many seconds; then look whether anything is left."""

    async def racing(call: Call, call_next: Next) -> Reply:
        after = None if delay is None else lambda call: float(delay)
        return await first_good(call, call_next, by="test", width=width, delay=after)

    Clock.running().jumps = True
    names = [str(number) for number in range(len(turns))]
    ran = Ran(call(targets=names, stream=stream, seconds=60), Scripted(turns))
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(leaves):
                ran.reply = await ask(racing, upstream=ran.upstream, call=ran.asked)
    except CallError as error:
        ran.error = error

    assert len(asyncio.all_tasks()) == 1
    assert ran.upstream.open == (1 if ran.reply else 0)
    if ran.reply:
        assert await text(ran.reply) == "hello"
    assert ran.upstream.open == 0
    return ran


def ran(turns: list[Turn], **options: object) -> Ran:
    with asyncio.Runner(loop_factory=ClockLoop) as runner:
        return runner.run(run(turns, **options))  # type: ignore[arg-type]


options = {
    "width": st.none() | st.integers(1, 3),
    "delay": st.none() | st.integers(0, 2),
    "leaves": st.none() | st.sampled_from([0.5, 1.5, 2.5]),
    "stream": st.booleans(),
}


@settings(max_examples=CASES, deadline=None)
@given(turns(), st.fixed_dictionaries(options))
def test_one_wins_and_all_others_are_ended(turns: list[Turn], options: dict[str, object]) -> None:
    what = ran(turns, **options)

    attempts, asked = what.asked.record.attempts, what.upstream.asked
    outcomes = [attempt.outcome for attempt in attempts]
    assert [attempt.target.upstream for attempt in attempts] == asked
    assert outcomes.count("ok") == (1 if what.reply else 0)
    assert None not in outcomes
    assert asked == [str(number) for number in range(len(asked))], "the order is that of the route"
    if what.reply:
        assert what.reply.attempt
        winner = int(what.reply.attempt.target.upstream)
        assert turns[winner].how == "answers"
        assert [raced.of for raced in what.asked.record.races] == [len(asked)] * (len(asked) > 1)
    if what.error:
        assert all(turns[int(name)].how != "answers" for name in asked), "a good one has not won"
    if options["delay"] is None and options["width"] is not None:
        assert what.upstream.most_at_once <= int(str(options["width"]))


@settings(max_examples=CASES, deadline=None)
@given(turns(), st.booleans())
def test_of_all_at_once_the_quickest_wins(turns: list[Turn], stream: bool) -> None:
    what = ran(turns, width=None, stream=stream)

    good = [(turn.seconds, place) for place, turn in enumerate(turns) if turn.how == "answers"]
    if good:
        assert what.reply
        assert what.reply.attempt
        assert int(what.reply.attempt.target.upstream) == min(good)[1]
    else:
        assert what.error


@settings(max_examples=CASES, deadline=None)
@given(turns(), st.booleans())
def test_one_at_a_time_is_the_order_of_the_route(turns: list[Turn], stream: bool) -> None:
    what = ran(turns, width=1, stream=stream)

    expected = next((n for n, turn in enumerate(turns, 1) if turn.how != "is down"), len(turns))
    assert what.upstream.asked == [str(number) for number in range(expected)]
    assert bool(what.reply) == (turns[expected - 1].how == "answers")


async def test_a_loser_that_fails_by_a_fault_of_ours_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    both = asyncio.Event()

    async def asked(call: Call) -> Reply:
        await both.wait()
        if str(call.targets[0]) == "a":
            return Reply.plain({})
        raise ZeroDivisionError("a bug")

    asyncio.get_running_loop().call_soon(both.set)
    reply = await first_good(call(targets=["a", "b"]), asked, by="race")
    await reply.aclose()

    assert "ZeroDivisionError: a bug" in caplog.text
