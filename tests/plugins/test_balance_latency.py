"""`balance: latency`: traffic goes where answers come soonest, moves on, and comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from headrace import Call, Event, Reply
from headrace.testing import Clock, Upstream, ask, call, refuses, text
from headrace.testing.script import chunk
from headrace_plugins.balance import Balance
from headrace_plugins.balance.measures import Average
from headrace_plugins.fallback import Fallback

from .balance.asking import World, answered, firsts, order, shown, traffic, weighing


@pytest.fixture(autouse=True)
async def still(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time goes by only where it is waited for, so that all figures are the same in each run."""
    now = clock.now
    monkeypatch.setattr(asyncio.SelectorEventLoop, "time", lambda loop: now)
    clock.jumps = True


@pytest.fixture
def balance() -> Balance:
    balance = Balance(by="latency")
    balance.random.seed(1)
    return balance


def setting(world: World, name: str, seconds: float) -> Callable[[], None]:
    def turn() -> None:
        world.seconds[name] = seconds

    return turn


# Slow ones


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streams"])
async def test_traffic_leaves_a_target_that_becomes_slow_and_returns_when_it_is_quick_again(
    balance: Balance, clock: Clock, stream: bool
) -> None:
    world, began = World(a=0.5, b=0.5), clock.now
    turns = {10.0: setting(world, "b", 5.0), 30.0: setting(world, "b", 0.5)}

    await traffic(world, balance, rate=10, seconds=90, turns=turns, stream=stream)

    assert 0.4 < world.share("b", began, began + 10) < 0.6
    assert world.share("b", began + 12, began + 30) < 0.05
    assert 0.4 < world.share("b", began + 70, began + 90) < 0.6


async def test_a_slow_target_is_tried_again_by_one_call_at_a_time(
    balance: Balance, clock: Clock
) -> None:
    world = World(a=0.5, b=5.0)
    await traffic(world, balance, rate=10, seconds=10)
    clock.advance(60)  # nobody asks, and what is known fades
    world.told.clear()

    await traffic(world, balance, rate=1000, seconds=0.1)

    assert 0.01 <= world.share("b") <= 0.15


async def test_of_many_targets_the_slow_ones_get_little(balance: Balance) -> None:
    names = [f"u{n}" for n in range(20)]
    world = World(**{name: 5.0 if name == "u7" else 0.5 for name in names})
    await traffic(world, balance, rate=40, seconds=10, targets=names)
    world.told.clear()

    await traffic(world, balance, rate=40, seconds=10, targets=names)

    assert world.share("u7") < 0.02
    others = [world.share(name) for name in names if name != "u7"]
    assert min(others) > 0.02
    assert max(others) < 0.1


async def test_equally_quick_targets_share_by_their_load(balance: Balance) -> None:
    world = World(a=1.0, b=1.0)

    await traffic(world, balance, rate=20, seconds=10)

    assert 0.45 < world.share("a") < 0.55


async def test_twice_the_weight_takes_twice_the_load(balance: Balance) -> None:
    world = World(a=1.0, b=1.0)
    targets = weighing(a=2, b=1)

    async def asking() -> None:
        given = call().replace(targets=targets)
        await text(await ask(balance, upstream=world, call=given))

    for _ in range(400):
        task = asyncio.create_task(asking())
        await asyncio.sleep(0.02)
    await task

    assert 0.6 < world.share("a") < 0.73


async def test_a_stream_that_hangs_is_left_before_anybody_gives_up(balance: Balance) -> None:
    world = World(a=0.5, b=0.5)
    await traffic(world, balance, rate=10, seconds=10, stream=True)
    world.seconds["b"] = 1000.0
    world.told.clear()

    asking = asyncio.create_task(traffic(world, balance, rate=10, seconds=10, stream=True))
    await asyncio.sleep(2)
    asked = len(world.told)
    await asyncio.sleep(7.5)

    assert [name for _, name in world.told[asked:]].count("b") == 0
    asking.cancel()
    await asyncio.wait([asking])


async def test_clients_that_leave_early_make_no_target_look_quick(
    balance: Balance, clock: Clock
) -> None:
    world = World(a=0.5, b=1000.0)

    async def impatient() -> None:
        try:
            async with asyncio.timeout(5):
                await text(await ask(balance, upstream=world, call=call(targets=["a", "b"])))
        except TimeoutError:
            pass

    for _ in range(100):
        await impatient()

    assert world.share("b") < 0.1


# Unknown ones


async def test_a_target_that_nobody_knows_is_tried_by_one_call(balance: Balance) -> None:
    world = World(a=0.5, new=0.5)
    await traffic(world, balance, rate=10, seconds=5, targets=["a"])
    world.told.clear()

    await traffic(world, balance, rate=1000, seconds=0.05, targets=["a", "new"])

    assert [name for _, name in world.told].count("new") == 1


async def test_who_is_quick_with_embeddings_is_still_unknown_for_chats(balance: Balance) -> None:
    quick, slow = World(a=0.1, b=0.1), World(a=0.5, b=5.0)
    await traffic(quick, balance, rate=10, seconds=5, operation="embedding", input="hi")
    await traffic(slow, balance, rate=2, seconds=5)
    slow.told.clear()

    await traffic(quick, balance, rate=10, seconds=5, operation="embedding", input="hi")
    await traffic(slow, balance, rate=10, seconds=5)

    assert quick.share("b") > 0.3
    assert slow.share("b") < 0.05


async def test_models_that_clients_choose_are_measured_as_one(balance: Balance) -> None:
    world = World(a=0.5, b=5.0)
    for n in range(10):
        await traffic(world, balance, rate=1, seconds=2, model=f"m{n}")
    asked = world.share("b")

    assert asked < 0.3
    assert await firsts(balance, call(targets=["a", "b"], model="new"), times=20) == {"a": 20}


# Answers of different length


class Pace(Upstream):
    """Streams of so many words, with pauses between them."""

    def __init__(self, words: int, **seconds: float) -> None:
        super().__init__()
        self.script(self._answer)
        self._words = words
        self._seconds = seconds

    async def _answer(self, upstream: Upstream, call: Call) -> Reply:
        name = upstream.asked[-1]

        async def events() -> AsyncIterator[Event]:
            for n in range(self._words):
                yield Event.saying(chunk(content=f"{n:3} "), "sse")
                await asyncio.sleep(self._seconds[name])
            yield Event.saying(chunk(finish="stop"), "sse")
            yield Event(b"data: [DONE]\n\n", b"[DONE]")

        return Reply(events(), framing="sse")


async def streamed(balance: Balance, upstream: Upstream, *targets: str, pause: float = 0) -> None:
    """One call, by a client that takes its time for each event."""
    given = call(targets=targets or ("a", "b"), stream=True)
    reply = await ask(balance, upstream=upstream, call=given)
    async for _ in reply.events:
        await asyncio.sleep(pause)
    await reply.aclose()


async def test_of_two_that_begin_at_once_the_one_with_the_quicker_words_is_asked(
    balance: Balance,
) -> None:
    upstream = Pace(50, a=0.01, b=0.1)

    for _ in range(20):
        await streamed(balance, upstream)

    assert upstream.asked.count("b") <= 2


async def test_a_client_that_reads_slowly_makes_no_target_slow(balance: Balance) -> None:
    upstream = Pace(50, a=0.01, b=0.05)

    await streamed(balance, upstream, "a", pause=0.1)
    await streamed(balance, upstream, "b")

    assert await firsts(balance, call(targets=["a", "b"], stream=True), times=9) == {"a": 9}


async def test_a_few_words_say_nothing_of_a_pace(balance: Balance) -> None:
    upstream = Pace(2, a=0.01, b=1.0)

    for _ in range(40):
        await streamed(balance, upstream)

    assert upstream.asked.count("b") > 5


async def test_a_long_plain_answer_makes_no_target_slow(balance: Balance, clock: Clock) -> None:
    world, began, long = World(a=0.5, b=0.5), clock.now, call(targets=["a"], max_tokens=2000)
    tasks = []

    def asking() -> None:
        tasks.append(asyncio.create_task(answered(ask(balance, upstream=world, call=long))))

    await traffic(world, balance, rate=10, seconds=30, turns={5.0: asking})

    assert tasks[0].done()
    assert world.share("a", began + 16, began + 26) > 0.4


async def test_plain_answers_of_all_lengths_tell_who_is_quicker(balance: Balance) -> None:
    world = World(a=0.1, b=0.4)

    await traffic(world, balance, rate=2, seconds=120, tokens=[2, 20, 100, 2000])

    assert world.share("b") < 0.2


# Failures


@pytest.mark.parametrize("status", [500, 404, 429])
async def test_who_refuses_everything_at_once_attracts_nobody(
    balance: Balance, status: int
) -> None:
    world = World(a=0.5, b=0.0)
    world.refuse["b"] = refuses(status)

    assert await traffic(world, balance, rate=10, seconds=120) > 0.97


async def test_who_refuses_everything_at_once_does_not_look_idle() -> None:
    world, idle = World(a=0.5, b=0.0), Balance(by="in_flight")
    world.refuse["b"] = refuses(500)

    assert await traffic(world, idle, rate=20, seconds=60) > 0.98


async def test_a_brownout_of_one_target_moves_its_traffic_within_two_seconds(
    balance: Balance, clock: Clock
) -> None:
    world, began = World(a=0.5, b=0.5), clock.now

    def failing(part: float) -> Callable[[], None]:
        return lambda: world.fails.update(b=part)

    part = await traffic(
        world, balance, rate=20, seconds=90, turns={10.0: failing(0.5), 30.0: failing(0.0)}
    )

    assert world.share("b", began + 12, began + 30) < 0.15
    assert 0.4 < world.share("b", began + 70, began + 90) < 0.6
    assert part > 0.98


async def test_with_fallback_a_brownout_of_one_target_is_not_seen(balance: Balance) -> None:
    world = World(a=0.5, b=0.01)
    world.fails["b"] = 0.5

    part = await traffic(world, balance, Fallback(), rate=20, seconds=60)

    assert part == 1
    assert world.share("b") < 0.2


async def test_a_failure_now_and_then_drives_nobody_away(balance: Balance) -> None:
    world = World(a=0.5, b=0.5)
    world.fails = {"a": 0.01, "b": 0.01}

    await traffic(world, balance, rate=20, seconds=60)

    assert 0.3 < world.share("b") < 0.7


# Groups


async def test_a_member_of_a_group_that_nobody_knows_makes_it_no_better(balance: Balance) -> None:
    world = World(a=5.0, spare=0.1, c=0.5)

    await traffic(world, balance, rate=2, seconds=20, targets=[["a", "spare"], "c"])

    assert world.share("c") > 0.8


async def test_a_group_is_as_quick_as_the_best_of_its_members(balance: Balance) -> None:
    world = World(a=5.0, b=0.1, c=0.5)
    for name in "abc":
        await traffic(world, balance, rate=1, seconds=1, targets=[name])

    assert await firsts(balance, call(targets=[["b", "a"], "c"])) == {"b": 1}
    assert await firsts(balance, call(targets=[["a", "b"], "c"])) == {"a": 1}
    assert await firsts(balance, call(targets=[["a"], "c"])) == {"c": 1}


# The others


async def test_behind_the_better_of_two_the_others_stand_by_how_quick_they_are(
    balance: Balance,
) -> None:
    world = World(a=0.2, b=1.0, c=5.0)
    for name in "cba":
        await traffic(world, balance, rate=1, seconds=1, targets=[name])

    found = {shown(await order(balance, call(targets=["c", "a", "b"]))) for _ in range(50)}

    assert found == {"a b c", "b a c"}


# The average


async def test_an_average_goes_up_at_once_and_down_slowly() -> None:
    average = Average(10)
    average.note(1.0, 0, peak=True)
    average.note(5.0, 1, peak=True)
    assert average.at(1) == 5.0

    average.note(1.0, 2, peak=True)
    assert 4.5 < average.at(2) < 5.0
    assert average.at(12) == pytest.approx(average.at(2) * 0.368, rel=0.01)


async def test_what_is_always_the_same_is_its_average() -> None:
    average = Average(10)
    for second in range(100):
        average.note(2.0, second, peak=True)

    assert average.at(99) == pytest.approx(2.0)


async def test_a_share_is_that_of_the_last_twenty_however_quickly_they_come() -> None:
    average = Average(10, weight=0.05)
    for n in range(1000):
        average.note(float(n % 4 == 0), n / 1000)

    assert 0.2 < average.at(1) < 0.3
