"""The steps of `rate_limit`: what they let in, whatever the clock does, in Python and in Lua."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace_plugins.rate_limit import lua
from headrace_plugins.rate_limit.bucket import Bucket, peek, renew, settle, take

from ..stores.servers import REDIS, VALKEY, running
from .rate_limit.reference import Reference
from .rate_limit.twin import in_lua

CASES = int(os.environ.get("FUZZ_CASES", "150"))
FUZZ = settings(
    max_examples=CASES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

MINUTE = Bucket("requests", 60, 60, 60)
Value = Mapping[str, float]


def numbers(*buckets: Bucket) -> tuple[float, ...]:
    return tuple(number for bucket in buckets for number in bucket.numbers)


def taking(
    value: Value, now: float, *buckets: Bucket, group: int = 0, tokens: int = 0, slots: int = -1
) -> tuple[bool, Value, tuple[float, ...]]:
    """Whether a call is let in, what is kept then, and the levels as they were."""
    kept, (fits, _, _, *levels) = take(value, now, (group, 60, slots, tokens, *numbers(*buckets)))
    assert (kept is not False) == fits
    return bool(fits), kept or value, tuple(levels)


def test_as_many_come_at_once_as_the_bucket_holds_and_then_as_it_fills() -> None:
    value: Value = {}
    let_in = []
    for now in [0.0] * 70 + [0.5] * 5 + [1.0] * 5 + [100.0] * 70:
        fits, value, _ = taking(value, now, MINUTE)
        let_in.append(fits)

    assert let_in == [True] * 60 + [False] * 10 + [False] * 5 + [True] + [False] * 4 + (
        [True] * 60 + [False] * 10
    )


def test_a_refusal_takes_nothing_from_the_other_buckets() -> None:
    day = Bucket("requests", 2, 86400, 2)
    value: Value = {}
    for _ in range(5):
        _, value, levels = taking(value, 0, MINUTE, day)

    assert levels == (58, 0)


def test_another_amount_counts_on_from_what_is_left() -> None:
    _, value, _ = taking({}, 0, MINUTE)

    _, _, (more,) = taking(value, 0, Bucket("requests", 600, 60, 600))
    _, _, (less,) = taking(value, 0, Bucket("requests", 10, 60, 10))

    assert (more, less) == (59, 10)


def test_a_clock_that_goes_back_locks_nobody_out_and_gives_nothing_twice() -> None:
    value: Value = {}
    for _ in range(60):
        _, value, _ = taking(value, 1000, MINUTE)

    refused, (fits, back, *_) = take(value, 940, (0, 60, -1, 0, *MINUTE.numbers))
    assert (refused, fits, back) == (False, 0, 60)
    value, _ = renew(value, 940, (60,))  # takes note of it

    let_in = {now: taking(value, now, MINUTE)[0] for now in (940, 940.9, 941)}
    assert let_in == {940: False, 940.9: False, 941: True}


def test_a_clock_that_goes_back_keeps_no_hold_for_longer() -> None:
    _, value, _ = taking({}, 1000, group=7, slots=2)

    _, value, _ = taking(value, 10, group=8, slots=2)

    assert (value["until7"], value["until8"]) == (70, 70)
    assert not taking(value, 69, slots=2)[0]
    assert taking(value, 70, slots=2)[0]


@pytest.mark.parametrize("used", [0, 30, 100, 250])
def test_what_a_call_did_not_use_goes_back_and_what_it_used_beyond_is_owed(used: int) -> None:
    bucket = Bucket("tokens", 600, 60, 600)
    _, value, _ = taking({}, 0, bucket, group=7, tokens=100)
    assert value == {"at": 0, "tokens60": 500, "calls7": 1, "held7": 100, "until7": 60}

    kept, _ = settle(value, 0, (7, 100, used, *numbers(bucket)))

    assert kept == {"at": 0, "tokens60": 600 - used}


def test_a_debt_is_paid_by_time() -> None:
    bucket = Bucket("tokens", 600, 60, 600)
    _, value, _ = taking({}, 0, bucket, group=7, tokens=600)
    value, _ = settle(value, 0, (7, 600, 1000, *numbers(bucket)))

    let_in = {now: taking(value, now, bucket, tokens=1)[0] for now in (0, 39, 40, 41)}

    assert let_in == {0: False, 39: False, 40: False, 41: True}
    assert taking(value, 0, bucket)[0], "what takes no tokens waits for none"


def test_calls_of_a_group_are_told_apart_by_how_many_there_are() -> None:
    bucket = Bucket("tokens", 600, 60, 600)
    value: Value = {}
    for now, tokens in ((0, 100), (10, 200)):
        _, value, _ = taking(value, now, bucket, group=7, tokens=tokens, slots=2)
    assert not taking(value, 10, bucket, group=8, slots=2)[0]

    value, _ = settle(value, 10, (7, 100, 0, *numbers(bucket)))

    assert (value["calls7"], value["held7"], value["until7"]) == (1, 200, 70)
    assert taking(value, 10, bucket, group=8, slots=2)[0]


def test_what_lapsed_gives_back_its_slots_and_tokens_when_somebody_takes() -> None:
    bucket = Bucket("tokens", 600, 600, 600)
    value: Value = {}
    for _ in range(2):
        _, value, _ = taking(value, 0, bucket, group=7, tokens=300, slots=2)

    assert not taking(value, 59, bucket, group=8, tokens=60, slots=2)[0]
    fits, kept, _ = taking(value, 60, bucket, group=8, tokens=600, slots=2)

    assert fits
    assert kept == {"at": 60, "tokens600": 0, "calls8": 1, "held8": 600, "until8": 120}


def test_a_call_that_goes_on_after_that_owes_all_that_it_used() -> None:
    bucket = Bucket("tokens", 600, 600, 600)
    _, value, _ = taking({}, 0, bucket, group=7, tokens=100)
    _, value, _ = taking(value, 60, bucket, group=8, tokens=1)

    kept, _ = settle(value, 60, (7, 100, 100, *numbers(bucket)))

    assert kept["tokens600"] == 600 - 1 - 100


def test_what_is_renewed_does_not_lapse_and_what_is_gone_does_not_come_back() -> None:
    _, value, _ = taking({}, 0, group=7, slots=1)
    value, _ = renew(value, 50, (60, 7, 8))

    assert not taking(value, 109, slots=1)[0]
    assert taking(value, 110, slots=1)[0]
    assert "until8" not in value


def test_looking_changes_nothing() -> None:
    _, value, _ = taking({}, 0, MINUTE, group=7, slots=3)

    kept, answer = peek(value, 1, (0, 0, 3, 0, *numbers(MINUTE)))

    assert kept is False
    assert answer == (1, 0, 1, 60)


# Whatever happens

QUARTERS = st.integers(-40, 400).map(lambda n: n / 4)  # binary fractions: floats are exact
GROUPS = st.integers(1, 3)
OPERATIONS = st.one_of(
    st.tuples(st.just("take"), QUARTERS, GROUPS, st.integers(0, 80)),
    st.tuples(st.just("settle"), QUARTERS, st.integers(0, 9), st.integers(0, 200)),
    st.tuples(st.just("renew"), QUARTERS, st.lists(GROUPS, max_size=3)),
)
BUCKETS = st.lists(
    st.builds(
        Bucket,
        st.sampled_from(["requests", "tokens"]),
        st.sampled_from([1.0, 16.0, 64.0]),
        st.sampled_from([16.0, 64.0]),
        st.sampled_from([1.0, 4.0, 64.0, 128.0]),
    ),
    max_size=3,
    unique_by=lambda bucket: (bucket.counts, bucket.period),
).map(tuple)
SLOTS = st.none() | st.integers(0, 4)


@pytest.mark.fuzz
@FUZZ
@given(BUCKETS, SLOTS, st.lists(OPERATIONS, max_size=40))
def test_it_does_what_the_slow_reference_does(
    buckets: tuple[Bucket, ...], slots: int | None, operations: list[Any]
) -> None:
    reference = Reference(buckets, slots, lease=32)
    value: Value = {}
    now = Fraction(1000)
    running: list[tuple[int, int]] = []
    for operation, passed, *rest in operations:
        now += Fraction(passed)
        value, reference = _both(reference, value, now, operation, rest, running)
        groups = {
            **{f"calls{number}": group.calls for number, group in reference.groups.items()},
            **{f"held{number}": group.tokens for number, group in reference.groups.items()},
            **{f"until{number}": group.until for number, group in reference.groups.items()},
        }
        assert groups == {
            name: n
            for name, n in value.items()
            if name[:5] in ("calls", "until") or name[:4] == "held"
        }

    lasting = {name: 1e9 if name.startswith("until") else n for name, n in value.items()}
    _, (_, _, _, *levels) = peek(lasting, float(now), (0, 0, -1, 0, *numbers(*buckets)))
    assert levels == [reference.level(bucket, now) for bucket in buckets]


def _both(
    reference: Reference,
    value: Value,
    now: Fraction,
    operation: str,
    rest: list[Any],
    running: list[tuple[int, int]],
) -> tuple[Value, Reference]:
    """The same in both; `running` has the group and the tokens of every call."""
    told = numbers(*reference.buckets)
    match operation, rest:
        case "take", (group, tokens):
            slots = -1 if reference.slots is None else reference.slots
            kept, _ = take(value, float(now), (group, 32, slots, tokens, *told))
            after = reference.taking(now, group, tokens)
            assert (kept is not False) == (after is not None)
            running += [(group, tokens)] if after else []
            return kept or value, after or reference
        case "settle", (which, used) if running:
            group, tokens = running.pop(which % len(running))
            kept, _ = settle(value, float(now), (group, tokens, used, *told))
            return kept, reference.settling(now, group, tokens, used)
        case "renew", (groups,):
            kept, _ = renew(value, float(now), (32, *groups))
            return kept, reference.renewing(now, groups)
    return value, reference


@pytest.mark.fuzz
@FUZZ
@given(
    st.floats(0.1, 1e4),
    st.floats(0.1, 1e5),
    st.floats(1, 1e4),
    st.lists(st.floats(-100, 1e3) | st.sampled_from([0.0, 1e-9, 1e6]), max_size=60),
)
def test_no_more_come_than_at_once_and_by_the_time_that_passes(
    amount: float, period: float, capacity: float, times: list[float]
) -> None:
    bucket = Bucket("requests", amount, period, capacity)
    value: Value = {}
    now, came, passed = 1e9, 0, 0.0
    for time in times:
        now += time
        passed += max(0.0, time) if value else 0
        for _ in range(3):
            fits, value, _ = taking(value, now, bucket)
            came += fits
        assert came <= (capacity + passed * amount / period) * 1.0001 + 0.001


# In Lua


@pytest.fixture(scope="module", params=[VALKEY, REDIS], ids=["valkey", "redis"])
def client(request: pytest.FixtureRequest) -> Iterator[redis.Redis]:
    with running(request.param) as server, redis.Redis(port=server.port, protocol=2) as client:
        yield client


Step = Callable[[Value, float, Sequence[float]], tuple[Any, tuple[float, ...]]]
TWINS: list[tuple[Step, str]] = [
    (take, lua.TAKE),
    (peek, lua.PEEK),
    (settle, lua.SETTLE),
    (renew, lua.RENEW),
]
IDS = st.integers(1, 3) | st.sampled_from([2**53 - 1, 2**52 + 1])
STEPS = st.one_of(
    st.tuples(
        st.sampled_from([0, 1]),
        st.tuples(st.just(0) | IDS, st.just(60), st.integers(-1, 3), st.integers(0, 10**6)),
    ),
    st.tuples(st.just(2), st.tuples(IDS, st.integers(0, 10**6), st.integers(0, 10**6))),
    st.tuples(st.just(3), st.tuples(st.just(60), IDS, IDS)),
)
ANY_BUCKETS = st.lists(
    st.builds(
        Bucket,
        st.sampled_from(["requests", "tokens"]),
        st.floats(0.01, 1e9),
        st.sampled_from([0.5, 1, 60, 86400, 604800, 1234567.5]),
        st.floats(1, 1e9),
    ),
    max_size=3,
    unique_by=lambda bucket: (bucket.counts, bucket.period),  # as those of a limit are
)


@pytest.mark.fuzz
@FUZZ
@given(ANY_BUCKETS, st.lists(st.tuples(st.floats(-100, 1e5), STEPS), max_size=12))
def test_its_lua_does_the_same(
    client: redis.Redis, buckets: list[Bucket], steps: list[tuple[float, Any]]
) -> None:
    value: Value = {}
    now = 1.7e9
    for passed, (which, own) in steps:
        now += passed
        run, text = TWINS[which]
        arguments = own if run is renew else (*own, *numbers(*buckets))

        kept, answer = run(value, now, arguments)

        found, told = in_lua(client, text, value, now, arguments)
        assert told == pytest.approx(answer, rel=1e-12)
        assert found == (pytest.approx(kept, rel=1e-12) if kept else kept)
        value = kept or value
