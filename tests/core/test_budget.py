"""How many further attempts there are: as many as are answered, few that are not."""

from __future__ import annotations

from headrace.budget import Account, Budget
from headrace.testing import Clock


def calls(
    first: Account, asked: Account, count: int, *, well: bool | None = False, who: str = "me"
) -> int:
    """How many of so many calls that fail first may ask further, one after the other."""
    made = 0
    for _ in range(count):
        first.first()
        first.ended(None, who, well=False)
        if first.pays(asked, who):
            made += 1
            asked.ended(first, who, well=well)
    return made


async def test_an_upstream_that_is_hardly_asked_may_fail_three_times() -> None:
    budget = Account(share=0)

    assert calls(budget, budget, 100) == 3


async def test_of_a_hundred_calls_twenty_may_be_asked_again_in_vain() -> None:
    budget = Account()

    assert 20 <= calls(budget, budget, 100) <= 20 + 3


async def test_it_makes_no_difference_where_the_further_attempts_are_made() -> None:
    first, others = Account(), [Account() for _ in range(5)]

    made = sum(calls(first, other, 20) for other in others)

    assert made <= 20 + 3 * len(others)  # three failures each, to know that they are ill
    assert calls(first, others[0], 1000) <= 200


async def test_an_upstream_that_answers_is_asked_as_often_as_others_fail() -> None:
    assert calls(Account(), Account(), 1000, well=True) == 1000


async def test_any_number_may_be_under_way_where_nothing_bad_is_known() -> None:
    first, asked = Account(), Account()

    assert all(first.pays(asked, "me") for _ in range(1000))

    for _ in range(1000):
        asked.ended(first, "me", well=True)
    assert first.pays(asked, "me")


async def test_what_is_answered_costs_nothing() -> None:
    first, well, ill = Account(share=0), Account(), Account()
    calls(Account(), ill, 100)

    calls(first, well, 1000, well=True)

    assert calls(first, ill, 100) == 3


async def test_failures_are_paid_for_however_late_they_are_known() -> None:
    """A thousand calls begin; all of the first second are under way before one has failed."""
    first, asked = Account(), Account()
    for _ in range(100):
        first.first()
        assert first.pays(asked, "me")
    for _ in range(100):
        asked.ended(first, "me", well=False)

    assert 100 + calls(first, asked, 900) <= 0.2 * 1000 + 3


async def test_after_a_long_time_without_failures_a_storm_costs_no_more() -> None:
    budget = Account()
    for _ in range(10_000):
        budget.first()
        budget.ended(None, "me", well=True)

    assert calls(budget, budget, 100) <= 20 + 3


async def test_of_those_that_are_under_way_at_an_ill_one_the_part_is_not_exceeded() -> None:
    first, asked = Account(), Account()
    calls(first, asked, 100)

    made = 0
    for _ in range(100):
        first.first()
        made += first.pays(asked, "me")

    assert made <= 20


async def test_one_answer_shows_that_it_is_well_again(clock: Clock) -> None:
    first, asked = Account(share=0), Account()
    calls(first, asked, 100)
    assert not first.pays(asked, "me")

    clock.advance(4)

    assert first.pays(asked, "me")
    assert not first.pays(asked, "me")  # one at a time, every three seconds
    asked.ended(first, "me", well=True)
    assert calls(first, asked, 100, well=True) == 100


async def test_what_was_long_ago_does_not_count(clock: Clock) -> None:
    budget = Account(share=0)
    calls(budget, budget, 100)

    clock.advance(11)

    assert budget.pays(budget, "me")


async def test_who_is_tried_in_vain_is_so_three_times_in_ten_seconds(clock: Clock) -> None:
    first, asked = Account(share=0), Account()
    calls(first, asked, 100)

    made = 0
    for _ in range(600):
        clock.advance(0.1)
        made += calls(first, asked, 1)

    assert 16 <= made <= 19


async def test_an_upstream_that_answers_every_other_time_is_asked_on() -> None:
    first, asked = Account(), Account()

    made = sum(calls(first, asked, 1, well=number % 2 == 0) for number in range(1000))

    assert made == 1000


async def test_what_nobody_waited_for_is_no_failure_and_no_answer() -> None:
    budget = Account(share=0)
    calls(budget, budget, 2)

    for _ in range(100):
        assert budget.pays(budget, "me")
        budget.ended(budget, "me", well=None)
    assert calls(budget, budget, 100) == 1


# What says nothing, and who says it


async def test_each_place_and_operation_has_an_account_of_its_own() -> None:
    budget = Budget(share=0)
    chats, embeddings = (budget.at(("a", "m"), kind) for kind in ("chat", "embedding"))

    assert calls(chats, chats, 100) == 3
    assert calls(embeddings, embeddings, 100) == 3
    assert budget.at(("a", "m"), "chat") is chats


async def test_faults_of_clients_do_not_make_it_well() -> None:
    """Every call but one in four fails; that one is refused for what it asks."""
    account, made = Account(), 0
    for _ in range(250):
        made += calls(account, account, 3)
        account.first()
        account.ended(None, "me", well=None)

    assert made <= 0.2 * 1000 + 3


async def test_what_one_caller_asks_does_not_make_it_ill_to_others() -> None:
    first, asked = Account(share=0), Account()

    assert calls(first, asked, 1000, who="poisoner") == 3

    for _ in range(100):
        assert calls(first, asked, 1, well=True) == 1
        assert calls(first, asked, 9, who="poisoner") == 0


async def test_what_a_second_caller_meets_as_well_it_has_for_all() -> None:
    first, asked = Account(share=0), Account()
    calls(first, asked, 100, who="one")

    made = [calls(first, asked, 1, who=f"caller {number}") for number in range(100)]

    assert made == [1] + [0] * 99


async def test_callers_of_whom_each_asks_once_find_it_as_soon() -> None:
    first, asked = Account(share=0), Account()

    assert sum(calls(first, asked, 1, who=f"caller {number}") for number in range(100)) == 3


async def test_who_met_failures_asks_again_soon_after_others_were_answered(clock: Clock) -> None:
    first, asked = Account(share=0), Account()
    for who in ("one", "other"):
        calls(first, asked, 10, who=who)
    clock.advance(4)
    assert calls(first, asked, 1, well=True, who="other") == 1

    clock.advance(3.4)

    assert calls(first, asked, 100, well=True, who="other") == 100
    assert calls(first, asked, 100, well=True, who="one") == 100


async def test_callers_without_number_fill_no_memory() -> None:
    account = Account()
    for number in range(5000):
        account.ended(None, f"caller {number}", well=False)

    assert len(account._illness._of) == 1000
