"""`balance`: the targets of each call in order, by weight or by load, all of them passed on."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace import ConfigError, Reply, Rests, Target, UpstreamError
from headrace.testing import (
    Upstream,
    ask,
    breaks,
    call,
    down,
    gateway,
    raw,
    says,
    settled,
    silent,
    stalls,
    text,
)
from headrace.testing.clock import ClockLoop
from headrace.testing.script import Act
from headrace_plugins.balance import Balance
from headrace_plugins.balance.measures import Measures
from headrace_plugins.fallback import Fallback

from .balance.asking import firsts, order, passed_on, shown, weighing


def seeded(**options: Any) -> Balance:
    """A balance whose chance is the same in each run."""
    balance = Balance(**options)
    balance.random.seed(1)
    return balance


# By weight


async def test_each_target_comes_first_as_often_as_its_weight_says() -> None:
    canary = call().replace(targets=weighing(stable=9, canary=1))

    found = await firsts(seeded(), canary, times=3000)

    assert 0.085 < found["canary"] / found.total() < 0.115


async def test_without_weights_all_are_alike() -> None:
    found = await firsts(seeded(), call(targets=["a", "b", "c"]), times=3000)

    assert chi_square(found, dict.fromkeys("abc", 1000)) < 13.8  # for 2 degrees of freedom, 0.1 %


async def test_every_target_stands_in_the_order_once_and_weights_count_for_each_place() -> None:
    three, balance = call().replace(targets=weighing(a=1, b=2, c=3)), seeded()

    found = Counter([shown(await order(balance, three)) for _ in range(3000)])

    weights = {"a": 1, "b": 2, "c": 3}
    expected = {
        f"{x} {y} {z}": 3000 * weights[x] / 6 * weights[y] / (6 - weights[x])
        for x, y, z in permutations("abc")
    }
    assert found.keys() == expected.keys()
    assert chi_square(found, expected) < 20.5  # for 5 degrees of freedom, 0.1 %


async def test_a_group_has_the_weights_of_its_members() -> None:
    [group, single] = weighing(a=1, b=2), weighing(c=1)

    found: Counter[str] = Counter()
    balance = seeded()
    for _ in range(2000):
        first, *_ = await order(balance, call().replace(targets=(group, *single)))
        found["group" if first == group else "single"] += 1

    assert 0.72 < found["group"] / 2000 < 0.78


async def test_alone_it_asks_the_first_of_its_order() -> None:
    upstream = Upstream()
    upstream.script(down())
    calls = [call().replace(targets=weighing(a=1000, b=0.001)) for _ in range(5)]

    for each in calls:
        with pytest.raises(UpstreamError):
            await ask(seeded(), upstream=upstream, call=each)

    assert upstream.asked == ["a"] * 5


async def test_with_fallback_the_others_are_asked_when_the_first_fails() -> None:
    upstream = Upstream()
    upstream.script(down(), down(), says("hello"))

    reply = await ask(seeded(), Fallback(), upstream=upstream, call=call(targets=["a", "b", "c"]))

    assert await text(reply) == "hello"
    assert sorted(upstream.asked) == ["a", "b", "c"]


async def test_chance_alone_watches_no_attempt() -> None:
    [passed] = await passed_on(Balance(), call(targets=["a", "b"]))

    assert passed.each_attempt == ()


# Those that rest


@pytest.mark.parametrize("by", ["weight", "in_flight", "latency"])
async def test_who_rests_comes_last(by: Any) -> None:
    balance = seeded(by=by, rests=Rests())
    balance.rests.rest(("b", "m"), 5, why="it asked to wait")
    balance.rests.rest(("d", "m"), 5, why="it has failed", closed=True)
    asked = call(targets=["d/m", "b/m", "c/m", "a/m"])

    found = {shown(await order(balance, asked)) for _ in range(50)}

    assert found == {"a/m c/m b/m d/m", "c/m a/m b/m d/m"}


# By load


async def held(balance: Balance, targets: Any, count: int) -> Counter[str]:
    """Who is asked by so many calls that all stay open."""
    upstream = Upstream()
    upstream.script(stalls("hello"))
    for _ in range(count):
        await ask(balance, upstream=upstream, call=call(stream=True).replace(targets=targets))
    return Counter(upstream.asked)


async def test_the_one_with_the_fewest_attempts_is_asked() -> None:
    assert await held(seeded(by="in_flight"), weighing(a=1, b=1, c=1), 9) == {
        "a": 3,
        "b": 3,
        "c": 3,
    }


async def test_twice_the_weight_takes_twice_the_load() -> None:
    assert await held(seeded(by="in_flight"), weighing(a=1, b=2), 12) == {"a": 4, "b": 8}


async def test_a_group_has_the_load_of_its_members() -> None:
    groups = (weighing(a=1, b=1), *weighing(c=1))

    assert await held(seeded(by="in_flight"), groups, 12) == {"a": 8, "c": 4}


async def test_as_many_as_are_idle_share_what_comes() -> None:
    found = await firsts(seeded(by="in_flight"), call(targets=["a", "b", "c"]), times=3000)

    assert chi_square(found, dict.fromkeys("abc", 1000)) < 13.8


async def test_routes_share_their_counts_where_they_share_the_plugin() -> None:
    upstream = Upstream()
    upstream.script(stalls("hello"))
    sharing = """
        upstreams: {a: mock, b: mock}
        chains: {shared: [balance: in_flight]}
        routes:
          x: {chain: shared, targets: [a/m]}
          y: {chain: shared, targets: [a/m, b/m]}
          z: {chain: [balance: in_flight], targets: [b/m]}
        """
    plan = gateway(sharing, upstream=upstream).plan
    x, y, z = (route.chain for route in plan.routes)

    for _ in range(3):
        await ask(*x, upstream=upstream, call=call(targets=["a/m"], stream=True))
        await ask(*z, upstream=upstream, call=call(targets=["b/m"], stream=True))

    assert await firsts(y[0], call(targets=["a/m", "b/m"]), times=20) == {"b": 20}


ACTS: dict[str, Act] = {
    "plain": says("hello"),
    "stream": says("hel", "lo"),
    "stalls": stalls("hello"),
    "breaks": breaks("hello"),
    "silent": silent(),
    "fails": down(),
}
STEPS = st.lists(
    st.tuples(st.sampled_from([*ACTS, "leave", "read", "drop"]), st.integers(0, 7)), max_size=30
)


@settings(deadline=None)
@given(STEPS)
def test_attempts_are_counted_until_their_close_whichever_way_it_comes(
    steps: Sequence[tuple[str, int]],
) -> None:
    async def play() -> None:
        measures = Measures(10.0)
        waiting: list[asyncio.Task[Reply]] = []
        replies: list[Reply] = []
        for what, nth in steps:
            if act := ACTS.get(what):
                upstream = Upstream()
                upstream.script(act)
                asked = call(stream=what != "plain").replace(each_attempt=(measures,))
                waiting.append(asyncio.create_task(ask(upstream=upstream, call=asked)))
            elif what == "leave" and waiting:
                waiting[nth % len(waiting)].cancel()
            elif what == "read" and replies:
                reply = replies.pop(nth % len(replies))
                reading = asyncio.create_task(raw(reply))
                await settled()
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
            elif replies:
                await replies.pop(nth % len(replies)).aclose(asyncio.CancelledError())
            await settled()
            done = [task for task in waiting if task.done()]
            waiting = [task for task in waiting if not task.done()]
            replies += [t.result() for t in done if not t.cancelled() and not t.exception()]
            assert measures.of(Target("a")).running == len(waiting) + len(replies)
        for reply in replies:
            await reply.aclose()
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert measures.of(Target("a")).running == 0

    with asyncio.Runner(loop_factory=ClockLoop) as runner:
        runner.run(play())


# As it is written


def test_it_is_enough_for_a_route_with_several_targets() -> None:
    gateway("upstreams: {a: mock, b: mock}\nroutes: {x: {chain: [balance], targets: [a, b]}}")


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("{by: latency, decay: 0s}", "decay must be more than 0s"),
        ("{sticky: {}}", "sticky must name its header"),
        ("{by: luck}", "by must be 'weight', 'in_flight' or 'latency'"),
    ],
)
def test_what_makes_no_sense_is_told(written: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        gateway(f"chains: {{x: [balance: {written}]}}")


def chi_square(found: Counter[str], expected: dict[str, float]) -> float:
    """How far counts are from what they should be (Pearson's test)."""
    return sum((found[name] - count) ** 2 / count for name, count in expected.items())
