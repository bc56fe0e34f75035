"""`rate_limit` and its store: what holds while it is slow, silent or gone, and what is held."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

import pytest

from headrace import Call, Memory, Next, Overloaded, RateLimited, Reply, Step
from headrace.testing import (
    Clock,
    ClockLoop,
    Upstream,
    ask,
    call,
    says,
    settled,
    silent,
    stalls,
    text,
)
from headrace_plugins.rate_limit import RateLimit
from headrace_plugins.rate_limit.found import Found

from .rate_limit.faulty import Faulty, served
from .rate_limit.gates import let_in, policy

SLOTS = {"by": [], "concurrent": 2, "tokens": "1M/10000d"}
"""In so long a time that nothing fills up meanwhile."""


@pytest.fixture(autouse=True)
async def jumping(clock: Clock) -> None:
    clock.jumps = True


@pytest.fixture
async def upstream() -> Upstream:
    return Upstream()


def limiting(store: Faulty, *, by: dict[str, Any] = SLOTS, **options: Any) -> RateLimit:
    return RateLimit(store=store, policies=[policy(name="all", **by)], **options)


async def found(plugin: RateLimit) -> Found:
    """What is left in the store."""
    [limit] = plugin._visit(call()).limits
    [answer] = await Memory.apply(cast("Memory", plugin.store), limit.peek())
    return Found.in_buckets(limit, answer)


async def slots(plugin: RateLimit) -> float:
    """How many slots are free in the store."""
    return (await found(plugin)).left[-1].there


# While it does not answer

GONE = ["refuses"] * 99


@pytest.mark.parametrize("act", ["refuses", "forgets", "hangs", "stalls"])
async def test_each_replica_keeps_its_share_while_the_store_does_not_answer(act: str) -> None:
    limit = {"by": [], "requests": "9/day"}
    plugin = limiting(Faulty(*[act] * 99), by=limit, replicas=3)
    async with plugin:
        given = [call() for _ in range(4)]
        assert [await let_in(plugin, each) for each in given] == [True, True, True, False]

    assert all(each.record.limits[0].local for each in given)


async def test_a_process_that_was_stopped_asks_the_store_once_more(
    upstream: Upstream, clock: Clock
) -> None:
    clock.jumps = False
    given = call()
    async with limiting(Faulty("hangs")) as plugin:
        asked = asyncio.create_task(ask(plugin, upstream=upstream, call=given))
        await settled()
        clock.advance(2)

        await text(await asked)

    assert [limit.local for limit in given.record.limits] == [False]


async def test_a_share_is_never_nothing(upstream: Upstream) -> None:
    limit = {"by": [], "requests": "3/day", "tokens": "3/day", "concurrent": 3}
    plugin = limiting(Faulty(*GONE), by=limit, replicas=100)
    upstream.script(stalls("hel"))

    stream = await ask(plugin, upstream=upstream, call=call("passthrough", body=b""))
    with pytest.raises(RateLimited, match="of 1 request per day"):
        await ask(plugin, upstream=upstream, call=call("passthrough", body=b""))
    await stream.aclose()


async def test_slots_and_tokens_are_kept_in_the_share_too(upstream: Upstream) -> None:
    plugin = limiting(Faulty(*GONE), replicas=2)
    upstream.script(stalls("hel"))

    stream = await ask(plugin, upstream=upstream, call=call(stream=True))
    with pytest.raises(RateLimited, match="1 call at the same time"):
        await ask(plugin, upstream=upstream, call=call())
    await stream.aclose()
    upstream.script(says("hello", usage=(0, 300_000)))
    await text(await ask(plugin, upstream=upstream, call=call(max_tokens=300_000)))
    with pytest.raises(RateLimited, match="of 500,000 tokens per"):
        await ask(plugin, upstream=upstream, call=call(max_tokens=300_000))


async def test_closed_lets_nobody_in_while_the_store_does_not_answer(upstream: Upstream) -> None:
    plugin = limiting(Faulty("refuses"), on_store_error="closed")

    with pytest.raises(Overloaded) as caught:
        await ask(plugin, upstream=upstream, call=call())

    assert (caught.value.status, caught.value.code) == (503, "limiter_unavailable")
    assert caught.value.headers["retry-after"] == "1"
    assert await let_in(plugin, call())


async def test_open_lets_everybody_in_and_writes_it_down() -> None:
    plugin = limiting(Faulty(*GONE), by={"by": [], "requests": "1/day"}, on_store_error="open")
    given = [call() for _ in range(5)]

    assert all([await let_in(plugin, each) for each in given])

    assert {each.record.limits[0].outcome for each in given} == {"unchecked"}


async def test_a_dry_run_refuses_nobody_then_either() -> None:
    for on_store_error in ("local", "open", "closed"):
        plugin = limiting(
            Faulty(*GONE),
            by={"by": [], "requests": "1/day"},
            on_store_error=on_store_error,
            dry_run=True,
        )
        assert all([await let_in(plugin, call()) for _ in range(3)])


async def test_what_is_left_can_be_asked_for_all_the_same() -> None:
    plugin = limiting(Faulty(*GONE), by={"by": [], "requests": "1/day"})
    given = call("me").replace(caller=None)

    assert await let_in(plugin, given)


async def test_the_store_counts_again_when_it_is_back() -> None:
    plugin = limiting(Faulty("well", "refuses", "refuses"), by={"by": [], "requests": "2/day"})
    given = [call() for _ in range(5)]

    assert [await let_in(plugin, each) for each in given] == [True, True, True, True, False]
    assert [each.record.limits[0].local for each in given] == [False, True, True, False, False]


async def test_nothing_is_logged_for_each_call(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="headrace"):
        plugin = limiting(Faulty(*GONE))
        async with plugin:
            for _ in range(9):
                await let_in(plugin, call())

    assert not caplog.records


@pytest.mark.parametrize(
    "script", [("hangs",), ("well", "hangs"), ("slowly", "hangs"), ("slowly", "slowly")]
)
async def test_all_of_it_takes_a_call_no_longer_than_its_budget(script: tuple[str, ...]) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, ClockLoop)
    plugin = limiting(Faulty(*script))
    async with plugin:
        before = loop.ahead
        assert await let_in(plugin, call())

        assert 0.04 < loop.ahead - before <= 0.05, "the time that was waited for, and no more"


# What is held


async def test_what_may_have_been_taken_is_given_back(upstream: Upstream) -> None:
    plugin = limiting(Faulty("forgets", "refuses", "refuses"), on_store_error="closed")
    async with plugin:
        with pytest.raises(Overloaded):
            await ask(plugin, upstream=upstream, call=call())
        assert await slots(plugin) == 1, "it was taken"

        await asyncio.sleep(5)

        assert await slots(plugin) == 2


async def test_a_client_that_leaves_while_the_store_is_asked_holds_nothing(
    upstream: Upstream,
) -> None:
    plugin = limiting(Faulty("stalls"))
    async with plugin:
        await served(call(), (plugin,), upstream, leaves=5)
        await settled()

        assert not upstream.asked
        assert await slots(plugin) == 2


async def test_what_is_not_given_back_in_time_is_given_back_later(upstream: Upstream) -> None:
    plugin = limiting(Faulty("well", "hangs", "refuses", "refuses"))
    upstream.script(says("hello", usage=(100, 50)))
    async with plugin:
        await text(await ask(plugin, upstream=upstream, call=call()))
        await asyncio.sleep(5)

        tokens, free = (await found(plugin)).left
        assert free.there == 2
        assert tokens.there == pytest.approx(1_000_000 - 150, abs=0.1)


async def test_what_was_given_back_without_a_word_is_given_back_once(upstream: Upstream) -> None:
    plugin = limiting(Faulty("well", "forgets"))
    upstream.script(says("hello", usage=(100, 50)))
    async with plugin:
        await text(await ask(plugin, upstream=upstream, call=call()))
        await asyncio.sleep(5)

        tokens, free = (await found(plugin)).left
        assert free.there == 2
        assert tokens.there == pytest.approx(1_000_000 - 150, abs=0.1)


async def test_a_call_that_runs_for_long_keeps_what_it_holds(upstream: Upstream) -> None:
    plugin = limiting(Faulty())
    upstream.script(stalls("hel"))
    async with plugin:
        stream = await ask(plugin, upstream=upstream, call=call(stream=True))
        for _ in range(30):
            await asyncio.sleep(20)
            assert await slots(plugin) == 1
            assert await let_in(plugin, call())

        await stream.aclose()

        assert await slots(plugin) == 2


async def test_what_a_dead_process_held_is_free_when_its_lease_is_over(
    upstream: Upstream, clock: Clock
) -> None:
    store = Faulty()
    dead, alive = limiting(store), limiting(store)
    upstream.script(stalls("hel"))
    held = [
        await ask(dead, upstream=upstream, call=call(stream=True, max_tokens=400_000))
        for _ in range(2)
    ]
    await dead._counter.holds.aclose()  # renews no more

    assert not await let_in(alive, call())
    clock.advance(40)
    assert not await let_in(alive, call())
    clock.advance(21)
    assert await let_in(alive, call(max_tokens=900_000))

    for stream in held:
        await stream.aclose()
    assert await slots(alive) == 2, "what comes back late is not given back twice"


async def test_one_that_was_only_asleep_owes_what_its_calls_have_used(
    upstream: Upstream, clock: Clock
) -> None:
    store = Faulty()
    slept, awake = limiting(store), limiting(store)
    upstream.script(says("hello", usage=(100_000, 50_000)))
    reply = await ask(slept, upstream=upstream, call=call(max_tokens=400_000))
    clock.advance(61)  # without a turn for anybody
    await text(await ask(awake, upstream=upstream, call=call(max_tokens=900_000)))

    await text(reply)

    tokens, free = (await found(awake)).left
    assert free.there == 2
    assert tokens.there == pytest.approx(1_000_000 - 300_000, abs=0.2)


async def test_what_it_takes_after_it_slept_is_not_mistaken_for_what_it_held_before(
    upstream: Upstream, clock: Clock
) -> None:
    store = Faulty()
    slept, awake = limiting(store), limiting(store)
    upstream.script(stalls("hel"))
    before = await ask(slept, upstream=upstream, call=call(stream=True))
    clock.advance(61)  # without a turn for anybody
    assert await let_in(awake, call())
    after = await ask(slept, upstream=upstream, call=call(stream=True))

    await before.aclose()
    assert await slots(awake) == 1
    await after.aclose()
    assert await slots(awake) == 2


async def test_a_long_call_that_is_given_back_later_is_given_back(upstream: Upstream) -> None:
    store = Faulty()
    plugin = limiting(store)
    upstream.script(stalls("hel"))
    async with plugin:
        stream = await ask(plugin, upstream=upstream, call=call(stream=True))
        await asyncio.sleep(600)
        store.script = ["refuses", "refuses"]
        await stream.aclose()
        assert await slots(plugin) == 1

        await asyncio.sleep(5)

        assert await slots(plugin) == 2


async def test_a_store_that_has_lost_the_note_of_a_call_gives_back_what_it_held(
    upstream: Upstream,
) -> None:
    store = Faulty()
    plugin = limiting(store)
    upstream.script(stalls("hel"))
    async with plugin:
        stream = await ask(plugin, upstream=upstream, call=call(stream=True))
        [note] = plugin._counter.holds._held
        await store.apply(Step(key=note, run=lambda *_: (None, ()), lua="return nil, {}", ttl=1))

        await stream.aclose()

        assert await slots(plugin) == 2


async def test_nothing_runs_while_nothing_is_held(upstream: Upstream) -> None:
    before = asyncio.all_tasks()
    plugin = limiting(Faulty())
    async with plugin:
        for _ in range(5):
            await let_in(plugin, call())
        await asyncio.sleep(60)

        assert asyncio.all_tasks() == before


async def test_nothing_runs_when_it_is_closed_and_what_is_owed_is_paid(upstream: Upstream) -> None:
    before = asyncio.all_tasks()
    plugin = limiting(Faulty("well", "refuses", "refuses"))
    async with plugin:
        await let_in(plugin, call())

    assert asyncio.all_tasks() == before
    assert await slots(plugin) == 2


async def test_a_call_that_ends_after_it_was_closed_starts_nothing(upstream: Upstream) -> None:
    before = asyncio.all_tasks()
    plugin = limiting(Faulty("well", *["refuses"] * 9))
    async with plugin:
        reply = await ask(plugin, upstream=upstream, call=call())
    await reply.aclose()

    assert asyncio.all_tasks() == before


async def test_many_calls_are_renewed_a_few_hundred_at_a_time(upstream: Upstream) -> None:
    store = Faulty()
    plugin = limiting(store, by={"by": [], "concurrent": 1000})
    upstream.script(stalls("hel"))
    async with plugin:
        streams = [await ask(plugin, upstream=upstream, call=call(stream=True)) for _ in range(600)]
        before = store.asked
        await asyncio.sleep(25)
        assert store.asked - before == 3

        for stream in streams:
            await stream.aclose()
        assert await slots(plugin) == 1000


async def test_more_than_can_ever_be_owed_is_forgotten(upstream: Upstream, clock: Clock) -> None:
    plugin = limiting(Faulty(*["refuses"] * 100_000), on_store_error="closed")
    for _ in range(3):
        with pytest.raises(Overloaded):
            await ask(plugin, upstream=upstream, call=call())
    assert len(plugin._counter.holds._owed) == 3

    await asyncio.sleep(65)  # by then it has lapsed, if it was taken

    assert not plugin._counter.holds._owed


async def test_a_plugin_that_fails_below_leaves_nothing_taken(upstream: Upstream) -> None:
    async def failing(call: Call, call_next: Next) -> Reply:
        raise ZeroDivisionError

    plugin = limiting(Faulty())
    with pytest.raises(ZeroDivisionError):
        await ask(plugin, failing, upstream=upstream, call=call())

    assert await slots(plugin) == 2


async def test_a_call_that_runs_out_of_time_leaves_nothing_taken(upstream: Upstream) -> None:
    plugin = limiting(Faulty())
    upstream.script(silent())

    await served(call(seconds=5), (plugin,), upstream)

    assert await slots(plugin) == 2
