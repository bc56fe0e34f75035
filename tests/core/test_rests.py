"""Targets that rest: who is asked after others, who is not asked, and until when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from headrace import Target, Targets, UpstreamError
from headrace.attempts import Attempts
from headrace.attempts import Upstream as Configured
from headrace.rests import Rests
from headrace.testing import Clock, Upstream, call, refuses, says, text


@pytest.fixture
def rests() -> Rests:
    return Rests()


def order(rests: Rests, targets: Sequence[Any]) -> str:
    return shown(rests.awake_first(call(targets=targets)))


def shown(targets: Targets) -> str:
    return " ".join(str(t) if isinstance(t, Target) else f"[{shown(t)}]" for t in targets)


async def test_who_rests_is_asked_after_the_others(rests: Rests) -> None:
    rests.rest(("a", "x"), 5, why="it asked to wait")

    assert order(rests, ["a/x", "b", "a/y"]) == "b a/y a/x"


async def test_a_whole_upstream_may_rest(rests: Rests) -> None:
    rests.rest(("a", None), 5, why="down")

    assert order(rests, ["a/x", "b", "a/y"]) == "b a/x a/y"


async def test_a_group_rests_when_all_of_it_does(rests: Rests) -> None:
    rests.rest(("a", "x"), 5, why="down")
    rests.rest(("b", "x"), 5, why="down")

    assert order(rests, [["a/x", "b/x"], ["a/x", "c"], "d"]) == "[a/x c] d [a/x b/x]"


async def test_who_is_closed_comes_last(rests: Rests) -> None:
    rests.rest(("a", "x"), 5, why="down", closed=True)
    rests.rest(("b", "x"), 5, why="it asked to wait")

    assert order(rests, ["a/x", "b/x", "c"]) == "c b/x a/x"


async def test_a_rest_ends(rests: Rests, clock: Clock) -> None:
    rests.rest(("a", "x"), 5, why="down")

    clock.advance(5.1)

    assert order(rests, ["a/x", "b"]) == "a/x b"
    assert not rests.all


async def test_a_shorter_or_milder_rest_changes_nothing(rests: Rests) -> None:
    rests.rest(("a", "x"), 60, why="down", closed=True)
    rests.rest(("a", "x"), 90, why="it asked to wait")
    rests.rest(("a", "x"), 5, why="down again", closed=True)

    found = rests.at(("a", "x"))
    assert found
    assert (found.why, found.closed) == ("down", True)


async def test_it_can_be_ended_by_hand(rests: Rests) -> None:
    rests.rest(("a", "x"), 60, why="down", closed=True)
    rests.resume(("a", "x"))

    assert rests.at(("a", "x")) is None


async def test_what_clients_name_does_not_fill_the_memory(rests: Rests) -> None:
    for number in range(12_000):
        rests.rest(("a", f"junk{number}"), 60, why="it asked to wait")

    assert len(rests.all) == 10_000


def attempts(rests: Rests, upstream: Upstream) -> Attempts:
    return Attempts({"a": Configured(name="a", forward=upstream)}, rests=rests)


async def test_a_closed_target_is_not_asked_and_that_is_no_attempt(rests: Rests) -> None:
    upstream = Upstream()
    rests.rest(("a", "m"), 30, why="down", closed=True)
    given = call(targets=["a/m"])

    with pytest.raises(UpstreamError) as raised:
        await attempts(rests, upstream)(given)

    error = raised.value
    assert (error.status, error.code, error.again, error.elsewhere) == (
        503, "upstream_resting", False, True,
    )  # fmt: skip
    assert error.retry_after == pytest.approx(30, abs=1)
    assert (upstream.asked, given.record.attempts) == ([], [])


async def test_a_target_that_asked_to_wait_is_still_asked_where_nobody_else_is(
    rests: Rests,
) -> None:
    upstream = Upstream()
    upstream.script(refuses(429, retry_after=2000), says("hello"))

    with pytest.raises(UpstreamError):
        await attempts(rests, upstream)(call(targets=["a/m"]))

    found = rests.at(("a", "m"))
    assert found
    assert 50 < found.left <= 60
    assert await text(await attempts(rests, upstream)(call(targets=["a/m"]))) == "hello"
