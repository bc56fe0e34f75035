"""How many further attempts there are: as many as are answered, few that are not."""

from __future__ import annotations

from headrace.budget import Budget
from headrace.testing import Clock


def calls(first: Budget, asked: Budget, count: int, *, well: bool = False) -> int:
    """How many of so many calls that fail first may ask further, one after the other."""
    made = 0
    for _ in range(count):
        first.first()
        first.ended(None, well=False)
        if first.pays(asked):
            made += 1
            asked.ended(first, well=well)
    return made


async def test_an_upstream_that_is_hardly_asked_may_fail_three_times() -> None:
    budget = Budget(share=0)

    assert calls(budget, budget, 100) == 3


async def test_of_a_hundred_calls_twenty_may_be_asked_again_in_vain() -> None:
    budget = Budget()

    assert 20 <= calls(budget, budget, 100) <= 20 + 3


async def test_it_makes_no_difference_where_the_further_attempts_are_made() -> None:
    first, others = Budget(), [Budget() for _ in range(5)]

    made = sum(calls(first, other, 20) for other in others)

    assert made <= 20 + 3 * len(others)  # three failures each, to know that they are ill
    assert calls(first, others[0], 1000) <= 200


async def test_an_upstream_that_answers_is_asked_as_often_as_others_fail() -> None:
    assert calls(Budget(), Budget(), 1000, well=True) == 1000


async def test_any_number_may_be_under_way_where_nothing_bad_is_known() -> None:
    first, asked = Budget(), Budget()

    assert all(first.pays(asked) for _ in range(1000))

    for _ in range(1000):
        asked.ended(first, well=True)
    assert first.pays(asked)


async def test_what_is_answered_costs_nothing() -> None:
    first, well, ill = Budget(share=0), Budget(), Budget()
    calls(Budget(), ill, 100)

    calls(first, well, 1000, well=True)

    assert calls(first, ill, 100) == 3


async def test_failures_are_paid_for_however_late_they_are_known() -> None:
    """A thousand calls begin; all of the first second are under way before one has failed."""
    first, asked = Budget(), Budget()
    for _ in range(100):
        first.first()
        assert first.pays(asked)
    for _ in range(100):
        asked.ended(first, well=False)

    assert 100 + calls(first, asked, 900) <= 0.2 * 1000 + 3


async def test_after_a_long_time_without_failures_a_storm_costs_no_more() -> None:
    budget = Budget()
    for _ in range(10_000):
        budget.first()
        budget.ended(None, well=True)

    assert calls(budget, budget, 100) <= 20 + 3


async def test_of_those_that_are_under_way_at_an_ill_one_the_part_is_not_exceeded() -> None:
    first, asked = Budget(), Budget()
    calls(first, asked, 100)

    made = 0
    for _ in range(100):
        first.first()
        made += first.pays(asked)

    assert made <= 20


async def test_one_answer_shows_that_it_is_well_again(clock: Clock) -> None:
    first, asked = Budget(share=0), Budget()
    calls(first, asked, 100)
    assert not first.pays(asked)

    clock.advance(4)

    assert first.pays(asked)
    assert not first.pays(asked)  # one at a time, every three seconds
    asked.ended(first, well=True)
    assert calls(first, asked, 100, well=True) == 100


async def test_what_was_long_ago_does_not_count(clock: Clock) -> None:
    budget = Budget(share=0)
    calls(budget, budget, 100)

    clock.advance(11)

    assert budget.pays(budget)


async def test_who_is_tried_in_vain_is_so_three_times_in_ten_seconds(clock: Clock) -> None:
    first, asked = Budget(share=0), Budget()
    calls(first, asked, 100)

    made = 0
    for _ in range(600):
        clock.advance(0.1)
        made += calls(first, asked, 1)

    assert 16 <= made <= 19


async def test_an_upstream_that_answers_every_other_time_is_asked_on() -> None:
    first, asked = Budget(), Budget()

    made = sum(calls(first, asked, 1, well=number % 2 == 0) for number in range(1000))

    assert made == 1000


async def test_what_nobody_waited_for_is_no_failure_and_no_answer() -> None:
    budget = Budget(share=0)
    calls(budget, budget, 2)

    for _ in range(100):
        assert budget.pays(budget)
        budget.ended(budget, well=None)
    assert calls(budget, budget, 100) == 1
