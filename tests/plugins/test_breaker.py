"""`breaker`: an upstream that fails is left alone, until a single call finds it well again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from headrace import (
    Call,
    Caller,
    ConfigError,
    Duration,
    Failure,
    Memory,
    Next,
    Plugin,
    Reply,
    UpstreamError,
    compose,
)
from headrace.attempts import Attempts
from headrace.attempts import Upstream as Configured
from headrace.budget import Budget
from headrace.testing import (
    Client,
    Clock,
    Upstream,
    breaks,
    call,
    down,
    gateway,
    refuses,
    says,
    settled,
    silent,
    stalls,
    text,
)
from headrace_plugins.breaker import Breaker
from headrace_plugins.retry import Retry

NOT_ASKED = "upstream_resting"


@pytest.fixture(autouse=True)
def draw(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cool-down is as long as it may be."""
    monkeypatch.setattr("random.uniform", lambda low, high: high)


@pytest.fixture
def upstream() -> Upstream:
    upstream = Upstream()
    upstream.script(refuses(500))
    return upstream


def breaker(*, cooldown: float = 5, longest: float = 300, **options: Any) -> Breaker:
    return Breaker(
        cooldown=Duration(cooldown), longest=Duration(longest), store=Memory(), **options
    )


def around(plugin: Breaker, upstream: Next, *others: Plugin, most: int = 9) -> Next:
    """Who asks the upstreams `a` and `b` through the breaker, `others` below it."""
    upstreams = {
        name: Configured(name=name, forward=upstream, budget=Budget(share=9)) for name in "ab"
    }
    attempts = Attempts(upstreams, rests=plugin.rests, most=most)
    return compose([plugin, *others], attempts)


async def outcome(asked: Next, given: Call | None = None) -> str:
    """What an asked call comes to: its text, or the code of its failure."""
    try:
        return await text(await asked(given or call()))
    except UpstreamError as error:
        return error.code or ""


async def ended(asked: Next, count: int, **members: Any) -> list[str]:
    """What so many calls come to, one after the other."""
    return [await outcome(asked, call(**members)) for _ in range(count)]


# When it breaks


async def test_after_five_failures_in_a_row_nobody_asks_it_any_more(upstream: Upstream) -> None:
    asked = around(breaker(), upstream)

    assert await ended(asked, 8) == ["upstream_500"] * 5 + [NOT_ASKED] * 3

    assert len(upstream.asked) == 5


async def test_a_call_that_is_refused_is_told_when_to_come_back_and_is_no_attempt(
    upstream: Upstream,
) -> None:
    asked, given = around(breaker(), upstream), call()
    await ended(asked, 5)

    with pytest.raises(UpstreamError) as caught:
        await asked(given)

    error = caught.value
    assert (error.status, error.type) == (503, "overloaded_error")
    assert (error.again, error.elsewhere, error.decided) == (False, True, True)
    assert error.retry_after == pytest.approx(5, abs=0.5)
    assert (given.record.attempts, list(given.record.resting)) == ([], list(given.targets))


async def test_a_success_in_between_begins_anew(upstream: Upstream) -> None:
    upstream.script(*[refuses(500)] * 4, says("hello"), *[refuses(500)] * 4, says("hello"))
    asked = around(breaker(), upstream)

    assert NOT_ASKED not in await ended(asked, 10)


async def test_it_breaks_when_half_of_many_calls_fail(upstream: Upstream) -> None:
    upstream.script(*[says("hello"), refuses(500)] * 30)
    asked = around(breaker(), upstream)

    assert (await ended(asked, 25)).index(NOT_ASKED) == 20


@pytest.mark.parametrize(
    "acts",
    [
        [says("hello"), says("hello"), refuses(500)] * 30,  # a third
        [refuses(500), says("hello")] * 9,  # too few
    ],
)
async def test_it_does_not_when_fewer_fail_or_there_were_only_a_few(
    upstream: Upstream, acts: list[Any]
) -> None:
    upstream.script(*acts, says("hello"))
    asked = around(breaker(), upstream)

    assert NOT_ASKED not in await ended(asked, len(acts))


async def test_what_was_long_ago_does_not_count_as_a_part(upstream: Upstream, clock: Clock) -> None:
    upstream.script(*[says("hello"), refuses(500)] * 30)
    asked = around(breaker(), upstream)

    for _ in range(4):
        assert NOT_ASKED not in await ended(asked, 12)
        clock.advance(10.1)


@pytest.mark.parametrize(
    "failure",
    [
        *(refuses(status) for status in (401, 402, 403, 500, 502, 503, 504, 529)),
        *(refuses(code=code) for code in ("connect_failed", "tls_failed", "upstream_invalid")),
    ],
)
async def test_what_says_that_it_is_not_well_counts(upstream: Upstream, failure: Any) -> None:
    upstream.script(failure)
    asked = around(breaker(failures=2), upstream)

    assert (await ended(asked, 3))[-1] == NOT_ASKED


@pytest.mark.parametrize("status", [400, 404, 408, 409, 413, 422, 429, 508])
async def test_limits_and_what_clients_can_bring_about_do_not(
    upstream: Upstream, status: int
) -> None:
    upstream.script(refuses(status))
    asked = around(breaker(failures=1, least=1), upstream)

    assert await ended(asked, 30) == [f"upstream_{status}"] * 30


async def test_what_counts_can_be_written(upstream: Upstream) -> None:
    upstream.script(refuses(500), refuses(500), refuses(429), refuses(429), says("hello"))
    asked = around(breaker(failures=2, when=[Failure("429")]), upstream)

    assert await ended(asked, 5) == [*["upstream_500"] * 2, *["upstream_429"] * 2, NOT_ASKED]


async def test_streams_that_break_after_their_first_words_count_once(upstream: Upstream) -> None:
    upstream.script(breaks("hel"))
    asked = around(breaker(), upstream)

    assert await ended(asked, 6, stream=True) == ["upstream_truncated"] * 5 + [NOT_ASKED]


async def test_clients_that_leave_are_no_success_either(upstream: Upstream) -> None:
    upstream.script(*[refuses(500)] * 4, stalls("hel"), refuses(500))
    asked = around(breaker(), upstream)
    await ended(asked, 4)

    reply = await asked(call(stream=True))
    await reply.aclose(asyncio.CancelledError())

    assert await ended(asked, 2) == ["upstream_500", NOT_ASKED]


async def test_clients_that_leave_say_nothing(upstream: Upstream) -> None:
    asked = around(breaker(failures=1), upstream)
    upstream.script(stalls("hel"))
    for _ in range(9):
        reply = await asked(call(stream=True))
        await reply.aclose(asyncio.CancelledError())
    upstream.script(silent())
    for _ in range(9):
        waiting = asyncio.ensure_future(asked(call()))
        await settled()
        waiting.cancel()
        await asyncio.wait([waiting])

    upstream.script(says("hello"))
    assert await outcome(asked) == "hello"


@pytest.mark.parametrize("stream", [True, False])
async def test_silence_counts(upstream: Upstream, clock: Clock, stream: bool) -> None:
    clock.jumps = True
    upstream.script(silent())
    asked = around(breaker(failures=2), upstream)

    for _ in range(2):
        with pytest.raises(Exception, match="answer"):
            await asked(call(stream=stream))

    assert await outcome(asked) == NOT_ASKED


async def test_a_client_that_has_less_patience_than_the_upstream_is_given_says_nothing(
    upstream: Upstream, clock: Clock
) -> None:
    clock.jumps = True
    upstream.script(silent())
    asked = around(breaker(failures=1), upstream)
    hasty = {"x-stainless-read-timeout": "2"}

    assert await ended(asked, 9, stream=True, headers=hasty) == ["first_byte_timeout"] * 9

    patient = {"x-stainless-read-timeout": "600"}
    await ended(asked, 1, stream=True, headers=patient)
    assert await outcome(asked) == NOT_ASKED


async def test_an_older_failure_that_is_raised_once_more_is_not_this_upstreams(
    upstream: Upstream,
) -> None:
    plugin = breaker(failures=1)
    asked = around(plugin, upstream, most=1)

    async def both(call: Call, call_next: Next) -> Reply:
        with pytest.raises(UpstreamError):
            await call_next(call.towards(call.targets[0]))
        return await asked(call.towards(call.targets[1]))

    given = call(targets=["a", "b"])
    unwatched = Attempts({"a": Configured(name="a", forward=upstream)})
    assert await outcome(compose([both], unwatched), given) == "upstream_500"
    assert upstream.asked == ["a"]

    upstream.script(says("hello"))
    assert await outcome(asked, call(targets=["b"])) == "hello"


# What it leaves alone


async def test_another_model_there_is_asked_on(upstream: Upstream) -> None:
    asked = around(breaker(), upstream)
    await ended(asked, 5, targets=["a/ill"])

    upstream.script(says("hello"))
    assert await ended(asked, 1, targets=["a/ill"]) == [NOT_ASKED]
    assert await ended(asked, 1, targets=["a/well"]) == ["hello"]
    assert await ended(asked, 1, targets=["b/ill"]) == ["hello"]


ROUTES = """
    upstreams:
      a: {forwarder: mock, plugins: [breaker]}
      b: {forwarder: mock, plugins: [breaker]}
    routes:
      named: a
      "junk*": a
      both: {chain: [fallback], targets: [a/m, b/m]}
      /v1/files*: a
    """


async def statuses(client: Client, count: int, model: Callable[[int], str]) -> list[int]:
    return [(await client.chat(model=model(number))).status for number in range(count)]


async def test_models_that_clients_think_of_count_together_and_fill_no_memory(
    upstream: Upstream,
) -> None:
    made = gateway(ROUTES, upstream=upstream)
    async with made.lifespan():
        client = Client(made)
        assert await statuses(client, 99, lambda n: f"junk{n}") == [502] * 5 + [503] * 94
        assert await statuses(client, 99, lambda n: f"a/x{n}") == [502] * 5 + [503] * 94
        assert len(made.vitals.rests.all) == 2

        upstream.script(says("hello"))
        assert await statuses(client, 1, lambda n: "named") == [200]


async def test_paths_that_are_passed_through_count_by_themselves(upstream: Upstream) -> None:
    made = gateway(ROUTES, upstream=upstream)
    async with made.lifespan():
        client = Client(made)
        answers = [await client.get(f"/v1/files/{number}") for number in range(6)]
        assert [answer.status for answer in answers] == [502] * 5 + [503]

        upstream.script(says("hello"))
        assert (await client.chat(model="named")).status == 200


async def test_the_next_target_is_asked_at_once(upstream: Upstream) -> None:
    made = gateway(ROUTES, upstream=upstream)
    async with made.lifespan():
        client = Client(made)
        upstream.script(*[refuses(500), says("hello")] * 5, says("hello"))
        for _ in range(8):
            answer = await client.chat(model="both")
            assert answer.status == 200

    assert upstream.asked == ["a", "b"] * 5 + ["b"] * 3
    assert (answer.headers["x-headrace-attempts"], answer.headers["x-headrace-upstream"]) == (
        "1",
        "b",
    )


async def test_when_none_is_asked_the_client_is_told_when_the_first_will_be(
    upstream: Upstream, clock: Clock
) -> None:
    made = gateway(ROUTES, upstream=upstream)
    async with made.lifespan():
        client = Client(made)
        upstream.script(*[refuses(500), says("hello")] * 5, refuses(500))
        assert await statuses(client, 5, lambda n: "both") == [200] * 5
        clock.advance(2)
        assert await statuses(client, 5, lambda n: "both") == [502] * 5
        assert upstream.asked[-5:] == ["b"] * 5

        answer = await client.chat(model="both")

    error = (await answer.json())["error"]
    assert (answer.status, error["code"], error["type"]) == (503, NOT_ASKED, "overloaded_error")
    assert answer.headers["x-headrace-attempts"] == "0"
    assert 2000 < int(answer.headers["retry-after-ms"]) <= 3000


# Whose failures they are


def of(name: str, **members: Any) -> Call:
    """A call of somebody."""
    return call(**members).replace(caller=Caller(name))


def fails_for(*names: str) -> Callable[[Upstream, Call], Any]:
    """Well, but not for these callers."""

    async def act(upstream: Upstream, call: Call) -> Reply:
        ill = call.caller and call.caller.name in names
        reply: Reply = await (refuses(500) if ill else says("hello"))(upstream, call)
        return reply

    return act


async def said_to(asked: Next, *names: str) -> list[str]:
    """What a call of each comes to, one after the other."""
    return [await outcome(asked, of(name)) for name in names]


async def test_failures_of_one_caller_keep_nobody_else_away(
    upstream: Upstream, clock: Clock
) -> None:
    upstream.script(fails_for("ann"))
    plugin = breaker()
    asked = around(plugin, upstream)

    for _ in range(30):
        assert await said_to(asked, "bob") == ["hello"]
        await said_to(asked, *["ann"] * 9)
        clock.advance(0.1)

    assert not plugin.rests.all
    assert len(upstream.asked) == 30 + 5
    assert await said_to(asked, "ann") == [NOT_ASKED]


async def test_such_a_caller_may_ask_once_a_cool_down(upstream: Upstream, clock: Clock) -> None:
    upstream.script(fails_for("ann"))
    asked = around(breaker(), upstream)
    await said_to(asked, "bob", *["ann"] * 5)

    clock.advance(5.1)
    assert await said_to(asked, "ann", "ann") == ["upstream_500", NOT_ASKED]
    clock.advance(4)
    upstream.script(says("hello"))
    assert await said_to(asked, "ann") == [NOT_ASKED]
    clock.advance(1.1)
    assert await said_to(asked, "ann", "ann") == ["hello", "hello"]


async def test_the_first_failure_of_another_one_breaks_it_for_all(upstream: Upstream) -> None:
    asked = around(breaker(), upstream)
    upstream.script(says("hello"), refuses(500))
    assert await said_to(asked, "bob", *["ann"] * 6) == [
        "hello",
        *["upstream_500"] * 5,
        NOT_ASKED,
    ]

    assert await said_to(asked, "bob", "cid") == ["upstream_500", NOT_ASKED]


async def test_of_two_callers_each_counts(upstream: Upstream) -> None:
    asked = around(breaker(), upstream)

    assert (
        await said_to(asked, *["ann", "bob"] * 3, "cid") == ["upstream_500"] * 5 + [NOT_ASKED] * 2
    )


async def test_what_broke_while_one_was_alone_is_open_to_the_next_one(upstream: Upstream) -> None:
    upstream.script(fails_for("ann"))
    plugin = breaker()
    asked = around(plugin, upstream)
    assert (await said_to(asked, *["ann"] * 6))[-1] == NOT_ASKED
    assert plugin.rests.at(("a", None))

    assert await said_to(asked, "bob", "ann", "cid") == ["hello", NOT_ASKED, "hello"]
    assert not plugin.rests.all


async def test_so_it_breaks_for_all_if_that_one_fails_as_well(upstream: Upstream) -> None:
    asked = around(breaker(), upstream)
    await said_to(asked, *["ann"] * 5)

    assert await said_to(asked, "bob", "cid") == ["upstream_500", NOT_ASKED]


async def test_a_part_is_too_much_without_the_caller_who_failed_most_as_well(
    upstream: Upstream,
) -> None:
    """Ann fails four times of five, others once in a while."""
    upstream.script(fails_for("ann", "cid"))
    asked = around(breaker(), upstream)

    for _ in range(9):
        await said_to(asked, *["ann"] * 4, *["bob"] * 2)
    assert await said_to(asked, "cid", "bob") == ["upstream_500", "hello"]

    assert NOT_ASKED in await said_to(asked, *["cid", "ann", "cid", "bob"] * 9)


async def test_who_is_not_known_is_its_address(upstream: Upstream) -> None:
    asked = around(breaker(), upstream)
    upstream.script(says("hello"), *[refuses(500)] * 5, says("hello"))

    codes = []
    for address in ("192.0.2.1", *["2001:db8::7", "2001:db8::8"] * 3, "192.0.2.1"):
        given = call()
        given.record.client = address
        codes.append(await outcome(asked, given))

    assert codes == ["hello", *["upstream_500"] * 5, NOT_ASKED, "hello"]


async def test_callers_without_number_fill_no_memory(upstream: Upstream) -> None:
    plugin = breaker(failures=5000, least=5000)
    asked = around(plugin, upstream)
    await said_to(asked, *map(str, range(1500)))

    [circuit] = plugin._circuits.values()
    assert len(circuit._own) == 1000


# How it comes back


async def broken(
    upstream: Upstream, clock: Clock, *others: Plugin, **options: Any
) -> tuple[Breaker, Next]:
    """A breaker whose cool-down is over, and who asks through it."""
    plugin = breaker(**options)
    asked = around(plugin, upstream, *others)
    await ended(asked, 5)
    assert await outcome(asked) == NOT_ASKED
    upstream.asked.clear()
    clock.advance(5.1)
    return plugin, asked


async def test_after_the_cool_down_a_single_call_is_let_through(
    upstream: Upstream, clock: Clock
) -> None:
    _, asked = await broken(upstream, clock)
    upstream.script(silent())
    probe = asyncio.ensure_future(asked(call()))
    await settled()

    assert await ended(asked, 9) == [NOT_ASKED] * 9

    assert len(upstream.asked) == 1
    probe.cancel()
    await asyncio.wait([probe])


async def test_a_probe_that_is_answered_lets_all_others_through(
    upstream: Upstream, clock: Clock
) -> None:
    _, asked = await broken(upstream, clock)
    upstream.script(says("hello"))

    assert await ended(asked, 9) == ["hello"] * 9


async def test_a_stream_is_answered_when_it_begins(upstream: Upstream, clock: Clock) -> None:
    _, asked = await broken(upstream, clock)
    upstream.script(stalls("hel"), says("hello"))

    probe = await asked(call(stream=True))

    assert await outcome(asked) == "hello"
    await probe.aclose()


async def test_what_was_before_the_cool_down_does_not_count_after_it(
    upstream: Upstream, clock: Clock
) -> None:
    upstream.script(*[says("hello"), refuses(500)] * 10, stalls("hel"), refuses(500))
    asked = around(breaker(failures=2), upstream)
    await ended(asked, 20)
    assert await outcome(asked) == NOT_ASKED
    clock.advance(5.1)

    probe = await asked(call(stream=True))

    assert await ended(asked, 3) == ["upstream_500", "upstream_500", NOT_ASKED]
    await probe.aclose()


async def test_a_probe_that_breaks_off_later_is_a_failure_like_others(
    upstream: Upstream, clock: Clock
) -> None:
    _, asked = await broken(upstream, clock)
    upstream.script(breaks("hel"), *[refuses(500)] * 9)

    assert await ended(asked, 6, stream=True) == [
        "upstream_truncated",
        *["upstream_500"] * 4,
        NOT_ASKED,
    ]


async def test_a_probe_that_fails_doubles_the_cool_down_up_to_a_bound(
    upstream: Upstream, clock: Clock
) -> None:
    plugin, asked = await broken(upstream, clock, longest=30)

    waits = []
    for _ in range(5):
        assert await ended(asked, 3) == ["upstream_500", NOT_ASKED, NOT_ASKED]
        rest = plugin.rests.at(("a", None))
        assert rest
        waits.append(round(rest.left))
        clock.advance(rest.left + 0.1)

    assert waits == [10, 20, 30, 30, 30]


async def test_the_cool_down_is_short_again_only_after_a_time_that_was_well(
    upstream: Upstream, clock: Clock
) -> None:
    plugin, asked = await broken(upstream, clock)

    async def wait() -> int:
        upstream.script(says("hello"), refuses(500))
        await ended(asked, 6)
        rest = plugin.rests.at(("a", None))
        assert rest
        left = rest.left
        clock.advance(left + 0.1)
        return round(left)

    assert [await wait(), await wait()] == [10, 20]
    upstream.script(says("hello"))
    await ended(asked, 1)
    clock.advance(20)
    assert await wait() == 5


async def test_cool_downs_differ_so_that_replicas_do_not_come_back_together(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    waits = set()
    for _ in range(20):
        plugin = breaker()
        await ended(around(plugin, upstream), 5)
        rest = plugin.rests.at(("a", None))
        assert rest
        waits.add(rest.left)

    assert len(waits) > 10
    assert 3.7 < min(waits) < max(waits) <= 5


async def test_a_probe_whose_client_leaves_says_nothing(upstream: Upstream, clock: Clock) -> None:
    _, asked = await broken(upstream, clock)
    upstream.script(silent(), says("hello"))
    probe = asyncio.ensure_future(asked(call()))
    await settled()

    probe.cancel()
    await asyncio.wait([probe])

    assert await outcome(asked) == "hello"


@pytest.mark.parametrize("status", [400, 429])
async def test_a_probe_that_is_refused_for_other_reasons_says_nothing(
    upstream: Upstream, clock: Clock, status: int
) -> None:
    _, asked = await broken(upstream, clock)
    upstream.script(refuses(status), says("hello"))

    assert await ended(asked, 2) == [f"upstream_{status}", "hello"]


async def test_a_probe_that_gets_no_answer_ends_when_its_time_is_over(
    upstream: Upstream, clock: Clock
) -> None:
    _, asked = await broken(upstream, clock)
    clock.jumps = True
    upstream.script(silent())
    probe = asyncio.ensure_future(outcome(asked, call(stream=True)))
    await settled()

    assert await outcome(asked) == NOT_ASKED
    assert await probe == "first_byte_timeout"
    assert await outcome(asked) == NOT_ASKED
    assert len(upstream.asked) == 1


async def test_what_began_before_it_broke_is_no_news_after_it(
    upstream: Upstream, clock: Clock
) -> None:
    late = asyncio.Event()

    async def fails_late(upstream: Upstream, call: Call) -> Reply:
        await late.wait()
        raise UpstreamError("late", code="connect_timeout", status=504)

    plugin = breaker()
    asked = around(plugin, upstream)
    upstream.script(*[fails_late] * 5, refuses(500))
    waiting = [asyncio.ensure_future(outcome(asked)) for _ in range(5)]
    await settled()
    await ended(asked, 5)
    clock.advance(5.1)
    upstream.script(says("hello"))
    await ended(asked, 1)

    late.set()
    await asyncio.wait(waiting)

    assert await outcome(asked) == "hello"


async def test_someone_may_end_the_cool_down_by_hand(upstream: Upstream) -> None:
    plugin = breaker()
    asked = around(plugin, upstream)
    await ended(asked, 5)

    await settled()
    plugin.rests.resume(("a", None))
    upstream.script(says("hello"))

    assert await ended(asked, 2) == ["hello", "hello"]


# Where it stands, and what it says


async def test_in_front_of_retry_it_counts_calls_and_behind_it_attempts(
    upstream: Upstream, clock: Clock
) -> None:
    clock.jumps = True
    in_front, behind = breaker(), breaker()
    retried = around(in_front, upstream, Retry(attempts=3))
    counted = compose([Retry(attempts=3)], around(behind, upstream))

    await ended(retried, 6)
    assert len(upstream.asked) == 15
    upstream.asked.clear()
    await ended(counted, 6)
    assert len(upstream.asked) == 5


def test_it_is_about_a_single_upstream() -> None:
    upstreams = "upstreams: {a: mock}\nroutes: {m: {chain: [breaker], targets: a}}"

    with pytest.raises(ConfigError, match="'breaker' is about a single upstream; put it among"):
        gateway(upstreams)
    with pytest.raises(ConfigError, match="'breaker' is about a single upstream; put it among"):
        gateway("server: {chain: [breaker]}")


async def test_each_change_is_told_once_and_without_what_the_upstream_says(
    upstream: Upstream, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "headrace.breaker")
    asked = around(breaker(), upstream)
    await ended(asked, 5, targets=["a/gpt"])
    clock.advance(5.1)
    upstream.script(down())
    await ended(asked, 3, targets=["a/gpt"])
    clock.advance(10.1)
    upstream.script(says("hello"))
    await ended(asked, 3, targets=["a/gpt"])

    assert [record.message for record in caplog.records] == [
        "upstream a (gpt) is not asked for 5 s: 5 failures in a row, the last: HTTP 500",
        "upstream a (gpt) answers again",
    ]


async def test_it_is_known_why_an_upstream_rests(upstream: Upstream, clock: Clock) -> None:
    plugin = breaker()
    upstream.script(*[says("hello"), down()] * 30)
    await ended(around(plugin, upstream), 20, targets=["a/gpt"])

    [(place, rest)] = plugin.rests.all.items()
    assert (place, rest.closed) == (("a", "gpt"), True)
    assert rest.why == "10 of 20 calls failed in 10s, the last: connect_failed"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"failures": 0}, "failures and least must be at least 1"),
        ({"least": 0}, "failures and least must be at least 1"),
        ({"rate": 0}, "rate must be more than 0 and at most 1, found 0"),
        ({"rate": 1.5}, "rate must be more than 0 and at most 1, found 1.5"),
        ({"window": Duration(0)}, "window must be more than 0"),
        ({"cooldown": Duration(0)}, "cooldown must be more than 0, and at most longest"),
        ({"longest": Duration(1)}, "cooldown must be more than 0, and at most longest"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Breaker(**options)
