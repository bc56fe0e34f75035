"""`fallback`: targets are asked in order until one answers."""

from __future__ import annotations

from typing import Any

import pytest

from headrace import (
    BadRequest,
    Call,
    ConfigError,
    Duration,
    Failure,
    Next,
    Others,
    Reply,
    Rests,
    Unsupported,
    UpstreamError,
    compose,
    leaves,
)
from headrace.attempts import Attempts
from headrace.attempts import Upstream as Configured
from headrace.telling import hints
from headrace.testing import (
    Clock,
    Upstream,
    ask,
    breaks,
    call,
    down,
    gateway,
    raw,
    refuses,
    says,
    sends,
    silent,
    text,
)
from headrace_plugins.fallback import Fallback


async def test_the_next_target_answers_when_the_first_is_down() -> None:
    upstream = Upstream()
    upstream.script(down(), says("hello"))

    reply = await ask(Fallback(), upstream=upstream, call=call(targets=["a", "b"]))

    assert await text(reply) == "hello"
    assert upstream.asked == ["a", "b"]


async def test_nobody_else_is_asked_when_the_first_one_answers() -> None:
    upstream = Upstream()

    await text(await ask(Fallback(), upstream=upstream, call=call(targets=["a", "b"])))

    assert upstream.asked == ["a"]


@pytest.mark.parametrize("status", [401, 403, 408, 409, 429, 500, 502, 503, 504, 529])
async def test_what_an_upstream_refuses_for_its_own_reasons_is_asked_elsewhere(status: int) -> None:
    upstream = Upstream()
    upstream.script(refuses(status), says("hello"))

    reply = await ask(Fallback(), upstream=upstream, call=call(targets=["a", "b"]))

    assert await text(reply) == "hello"


@pytest.mark.parametrize("status", [400, 404, 413, 422])
async def test_what_the_client_did_wrong_is_wrong_everywhere(status: int) -> None:
    upstream = Upstream()
    upstream.script(refuses(status))

    with pytest.raises(UpstreamError) as caught:
        await ask(Fallback(), upstream=upstream, call=call(targets=["a", "b"]))

    assert caught.value.status == status
    assert upstream.asked == ["a"]


async def test_what_one_upstream_cannot_do_another_may() -> None:
    async def unable(upstream: Upstream, call: Call) -> Reply:
        raise Unsupported("this upstream knows no tools", param="tools")

    upstream = Upstream()
    upstream.script(unable, says("hello"))

    reply = await ask(Fallback(), upstream=upstream, call=call(targets=["a", "b"]))

    assert await text(reply) == "hello"


async def test_the_client_is_told_what_the_last_one_said() -> None:
    upstream = Upstream()
    upstream.script(refuses(500), refuses(429, retry_after=3))

    with pytest.raises(UpstreamError) as caught:
        await ask(Fallback(), upstream=upstream, call=call(targets=["a", "b"]))

    assert (caught.value.status, caught.value.retry_after) == (429, 3)


async def test_an_upstream_that_does_not_begin_in_time_is_left_for_the_next(clock: Clock) -> None:
    clock.jumps = True
    upstream = Upstream()
    upstream.script(silent(), says("hello"))
    asked = call(targets=["a", "b"], stream=True)

    assert await text(await ask(Fallback(), upstream=upstream, call=asked)) == "hello"

    assert upstream.cancelled == 1


async def test_an_error_that_comes_as_the_first_event_is_no_answer() -> None:
    upstream = Upstream()
    upstream.script(sends(b'{"error": {"message": "overloaded"}}'), says("hello"))
    asked = call(targets=["a", "b"], stream=True)

    assert await text(await ask(Fallback(), upstream=upstream, call=asked)) == "hello"


async def test_after_the_first_words_there_is_no_way_back() -> None:
    upstream = Upstream()
    upstream.script(breaks("hel"), says("hello"))
    reply = await ask(Fallback(), upstream=upstream, call=call(targets=["a", "b"], stream=True))

    with pytest.raises(UpstreamError):
        await raw(reply)

    assert upstream.asked == ["a"]


async def test_a_failure_that_is_not_the_upstreams_is_not_asked_elsewhere() -> None:
    async def refusing(call: Call, call_next: Next) -> Reply:
        raise BadRequest("too long")

    upstream = Upstream()

    with pytest.raises(BadRequest):
        await ask(Fallback(), refusing, upstream=upstream, call=call(targets=["a", "b"]))

    assert upstream.asked == []


async def test_groups_are_asked_one_after_the_other_each_as_a_whole() -> None:
    upstream = Upstream()
    upstream.script(down(), down(), says("hello"))
    asked = call(targets=[["a", "b"], ["c"]])

    assert await text(await ask(Fallback(), Fallback(), upstream=upstream, call=asked)) == "hello"

    assert upstream.asked == ["a", "b", "c"]


async def test_each_target_is_asked_for_its_own_model() -> None:
    upstream = Upstream()
    upstream.script(down(), says("hello"))

    await text(await ask(Fallback(), upstream=upstream, call=call(targets=["a/small", "b/large"])))

    assert [asked.members["model"] for asked in upstream.calls] == ["small", "large"]


def test_a_route_with_several_targets_needs_it() -> None:
    upstreams = "upstreams: {a: mock, b: mock}\n"
    gateway(upstreams + "routes: {fast: {chain: [fallback], targets: [a, b]}}")

    with pytest.raises(ConfigError, match=r"add one of .*'fallback'.* to it"):
        gateway(upstreams + "routes: {fast: {targets: [a, b]}}")


# Which failures, how long, and who rests


@pytest.mark.parametrize(
    ("on", "status", "asked"),
    [
        (["5xx"], 503, ["a", "b"]),
        (["5xx"], 429, ["a"]),
        (["429", "404"], 404, ["a", "b"]),
        (["429"], 500, ["a"]),
        ([], 500, ["a"]),
    ],
)
async def test_which_failures_are_asked_elsewhere_can_be_written(
    on: list[str], status: int, asked: list[str]
) -> None:
    upstream = Upstream()
    upstream.script(refuses(status))

    with pytest.raises(UpstreamError):
        await ask(
            Fallback(when=[Failure(each) for each in on]),
            upstream=upstream,
            call=call(targets=["a", "b"]),
        )

    assert upstream.asked == asked


async def test_a_code_names_a_failure_without_an_answer(clock: Clock) -> None:
    clock.jumps = True
    upstream = Upstream()
    upstream.script(silent(), says("hello"))
    fallback = Fallback(when=[Failure("first_byte_timeout")])

    reply = await ask(
        fallback, upstream=upstream, call=call(stream=True, targets=["a", "b"], seconds=900)
    )

    assert await text(reply) == "hello"


async def test_only_the_last_target_has_all_the_time_there_is(clock: Clock) -> None:
    clock.jumps = True
    began = clock.now
    upstream = Upstream()
    upstream.script(silent())

    with pytest.raises(UpstreamError) as raised:
        await ask(
            Fallback(patience=Duration(2)),
            upstream=upstream,
            call=call(stream=True, targets=["a", "b", "c"]),
        )

    assert raised.value.code == "first_byte_timeout"
    assert clock.now - began == pytest.approx(2 + 2 + 60, abs=1)


async def test_who_asked_to_wait_is_asked_after_the_others(clock: Clock) -> None:
    rests = Rests()
    upstream = Upstream()
    upstream.script(refuses(429, retry_after=20), says("hello"))
    attempts = attempts_of(upstream, rests)
    fallback = compose([Fallback(rests=rests)], attempts)

    await text(await fallback(call(targets=["a", "b"])))
    await text(await fallback(call(targets=["a", "b"])))
    clock.advance(21)
    await text(await fallback(call(targets=["a", "b"])))

    assert upstream.asked == ["a", "b", "b", "a"]


async def test_who_asked_to_wait_for_long_is_asked_first_again_after_a_minute(clock: Clock) -> None:
    rests = Rests()
    upstream = Upstream()
    upstream.script(refuses(429, retry_after=3600), says("hello"))
    fallback = compose([Fallback(rests=rests)], attempts_of(upstream, rests))

    await text(await fallback(call(targets=["a", "b"])))
    clock.advance(59)
    await text(await fallback(call(targets=["a", "b"])))
    clock.advance(2)
    await text(await fallback(call(targets=["a", "b"])))

    assert upstream.asked == ["a", "b", "b", "a"]


async def test_when_all_are_closed_the_client_is_told_who_is_free_first() -> None:
    rests = Rests()
    rests.rest(("a", None), 30, why="down", closed=True)
    rests.rest(("b", None), 10, why="down", closed=True)
    given = call(targets=["a", "b"])

    with pytest.raises(UpstreamError) as raised:
        await compose([Fallback(rests=rests)], attempts_of(Upstream(), rests))(given)

    assert (raised.value.status, raised.value.code) == (503, "upstream_resting")
    assert hints(raised.value, given.record)["retry-after"] == "10"


async def test_why_one_has_failed_says_more_than_that_another_rests() -> None:
    rests = Rests()
    rests.rest(("b", None), 10, why="down", closed=True)
    upstream = Upstream()
    upstream.script(refuses(500))
    given = call(targets=["b", "a"])

    with pytest.raises(UpstreamError) as raised:
        await compose([Fallback(rests=rests)], attempts_of(upstream, rests))(given)

    assert raised.value.said == 500
    assert upstream.asked == ["a"]


# Those below are told whether there are others


LIMITED = UpstreamError("busy", code="upstream_429", said=429, retry_after=3)


async def others_of(*fallbacks: Fallback, rests: Rests | None = None, **asked: Any) -> list[str]:
    """The targets below which somebody may count on another one, when they are limited."""
    counting: list[str] = []

    async def below(call: Call, call_next: Next) -> Reply:
        others = call.told(Others)
        if others and others.asked_after(LIMITED):
            counting.extend(target.upstream for target in leaves(call.targets))
        return await call_next(call)

    upstream = Upstream()
    upstream.script(down())
    with pytest.raises(UpstreamError):
        await compose([*fallbacks, below], attempts_of(upstream, rests or Rests()))(call(**asked))
    return counting


async def test_all_but_the_last_can_count_on_another_one() -> None:
    assert await others_of(Fallback(), targets=["a", "b", "c"]) == ["a", "b"]


async def test_the_last_of_a_group_can_count_on_the_next_group() -> None:
    nested = [["a", "b"], ["c", "d"]]

    assert await others_of(Fallback(), Fallback(), targets=nested) == ["a", "b", "c"]


async def test_nobody_counts_on_others_that_are_not_asked_after_such_a_failure() -> None:
    picky = Fallback(when=[Failure("connect_failed")])

    assert await others_of(picky, targets=["a", "b"]) == []


async def test_nobody_counts_on_others_that_are_closed() -> None:
    rests = Rests()
    rests.rest(("b", None), 30, why="down", closed=True)

    assert await others_of(Fallback(rests=rests), rests=rests, targets=["a", "b"]) == []


def attempts_of(upstream: Upstream, rests: Rests) -> Attempts:
    configured = {name: Configured(name=name, forward=upstream) for name in "abcd"}
    return Attempts(configured, rests=rests)
