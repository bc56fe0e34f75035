"""One limit over a hundred replicas for an hour: what is let in, by whom, and with no store."""

from __future__ import annotations

from functools import cache

import pytest

from .fleet import (
    BURST,
    HOUR,
    LEASE,
    RATE,
    REPLICAS,
    SITUATIONS,
    SLOTS,
    Outcome,
    Situation,
    begun_anew,
    coming_and_going,
    dying,
    lopsided,
    lost,
    lost_and_found,
    lost_and_lopsided,
    lost_and_many,
    simulated,
    together,
)
from .tables import of_limits, written

ONE_MORE = 1.01
SHARE = max(1.0, BURST / REPLICAS)
"""What a replica's own bucket holds without the store: never less than one call."""


@cache
def of(situation: Situation[Outcome]) -> Outcome:
    return simulated(situation)


@pytest.mark.parametrize("situation", [together, lopsided, coming_and_going])
def test_who_shares_a_store_keeps_the_limit_in_any_stretch_of_time(
    situation: Situation[Outcome],
) -> None:
    found = of(situation)

    assert found.above <= BURST * ONE_MORE
    assert 0.99 * found.allowed <= found.let_in <= found.allowed * ONE_MORE
    assert found.asked > 2 * found.let_in


def test_no_replica_gets_more_than_its_part_of_the_calls() -> None:
    least, middle, most = of(together).shares

    assert 0.5 * middle < least <= most < 1.5 * middle


def test_a_replica_that_gets_half_of_the_calls_is_not_held_to_a_share() -> None:
    found = of(lopsided)

    assert 0.45 < found.shares[-1] / found.let_in < 0.55


def test_a_store_that_begins_anew_gives_one_burst_more() -> None:
    found = of(begun_anew)

    assert BURST * ONE_MORE < found.above <= 2 * BURST * ONE_MORE


def test_a_store_that_was_away_gives_no_more_than_the_shares_and_a_full_bucket() -> None:
    found = of(lost_and_found)

    assert found.above <= (BURST + REPLICAS * SHARE + BURST) * ONE_MORE
    assert (
        0.95 * found.allowed <= found.let_in <= found.allowed * ONE_MORE + REPLICAS * SHARE + BURST
    )


def test_without_a_store_all_shares_together_are_the_limit() -> None:
    found = of(lost)

    assert found.above <= REPLICAS * SHARE * ONE_MORE
    assert 0.7 * found.allowed <= found.let_in <= RATE * HOUR * ONE_MORE + REPLICAS * SHARE


def test_without_a_store_calls_to_a_few_replicas_get_their_shares_alone() -> None:
    found = of(lost_and_lopsided)

    assert found.let_in <= (RATE * HOUR * 10 / REPLICAS + 10 * SHARE) * ONE_MORE


def test_without_a_store_more_replicas_than_was_said_let_in_more() -> None:
    found = of(lost_and_many)

    assert 1.2 * found.allowed < found.let_in <= 2 * found.allowed * ONE_MORE


def test_slots_of_replicas_that_die_come_back_and_are_never_taken_twice() -> None:
    found = simulated(dying)

    assert (found.deaths, found.most) == (12, SLOTS)
    assert LEASE / 3 < found.longest < LEASE * 1.1


def test_the_page_tells_what_is_true() -> None:
    table = of_limits(map(of, SITUATIONS))

    assert written("limits") == table, "docs/scaling.md: run `python -m tests.scaling`"
