"""How many further attempts an upstream gets: as many as it answers, few when it does not."""

from __future__ import annotations

from headrace.budget import Budget
from headrace.testing import Clock


async def further(budget: Budget, count: int, *, well: bool) -> int:
    """How many of so many further attempts are let happen, one after the other."""
    made = 0
    for _ in range(count):
        if budget.allows():
            made += 1
            budget.ended(well=well, further=True)
    return made


async def test_an_upstream_that_is_hardly_asked_may_fail_three_times() -> None:
    assert await further(Budget(), 100, well=False) == 3


async def test_of_a_hundred_first_attempts_twenty_may_be_repeated_in_vain() -> None:
    budget = Budget()
    for _ in range(100):
        budget.first()
        budget.ended(well=False, further=False)

    assert 23 <= await further(budget, 1000, well=False) <= 24


async def test_an_upstream_that_answers_is_asked_as_often_as_others_fail() -> None:
    assert await further(Budget(), 1000, well=True) == 1000


async def test_what_was_long_ago_does_not_count(clock: Clock) -> None:
    budget = Budget()
    await further(budget, 100, well=False)

    clock.advance(11)

    assert await further(budget, 100, well=False) == 3


async def test_an_upstream_that_answers_every_other_time_is_asked_on() -> None:
    budget = Budget()

    made = 0
    for number in range(1000):
        if budget.allows():
            made += 1
            budget.ended(well=number % 2 == 0, further=True)

    assert made == 1000


async def test_a_share_of_nothing_leaves_the_three() -> None:
    budget = Budget(share=0)
    for _ in range(100):
        budget.first()

    assert await further(budget, 100, well=False) == 3
