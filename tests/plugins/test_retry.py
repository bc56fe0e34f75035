"""`retry`: the same target is asked again, after a wait that upstream and call allow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from headrace import Call, Duration, Failure, Others, Reply, UpstreamError
from headrace.budget import Budget
from headrace.testing import (
    Client,
    Clock,
    Loopback,
    Upstream,
    ask,
    breaks,
    call,
    down,
    gateway,
    raw,
    refuses,
    says,
    silent,
    text,
)
from headrace.testing.misbehaviour import status
from headrace.testing.script import Act
from headrace_plugins.retry import Retry


class Watched(Upstream):
    """Notes when it was asked, in seconds after the first time."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        clock.jumps = True
        self._clock = clock
        self._times: list[float] = []

    @property
    def times(self) -> list[float]:
        return [round(time - self._times[0], 1) for time in self._times]

    async def __call__(self, call: Call) -> Reply:
        self._times.append(self._clock.now)
        return await super().__call__(call)


@pytest.fixture
async def upstream(clock: Clock) -> Watched:
    return Watched(clock)


@pytest.fixture
def draw(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets which part of the longest wait is drawn."""

    def drawn(part: float) -> None:
        monkeypatch.setattr("random.uniform", lambda low, high: low + part * (high - low))

    return drawn


def retry(attempts: int = 3, *, wait: float = 1, longest: float = 10) -> Retry:
    return Retry(attempts=attempts, wait=Duration(wait), longest=Duration(longest))


async def test_the_same_target_is_asked_again(upstream: Watched) -> None:
    upstream.script(down(), refuses(503), says("hello"))

    reply = await ask(retry(), upstream=upstream, call=call(targets=["a", "b"]))

    assert await text(reply) == "hello"
    assert upstream.asked == ["a", "a", "a"]


@pytest.mark.parametrize("code", [408, 409, 429, 500, 502, 503, 504])
async def test_what_may_go_better_a_moment_later_is_asked_again(
    upstream: Watched, code: int
) -> None:
    upstream.script(refuses(code), says("hello"))

    assert await text(await ask(retry(), upstream=upstream, call=call())) == "hello"


@pytest.mark.parametrize("code", [400, 401, 403, 404, 422])
async def test_what_will_not_go_better_is_not(upstream: Watched, code: int) -> None:
    upstream.script(refuses(code), says("hello"))

    with pytest.raises(UpstreamError):
        await ask(retry(), upstream=upstream, call=call())

    assert upstream.times == [0]


async def test_the_last_failure_is_the_clients(upstream: Watched) -> None:
    upstream.script(refuses(500), refuses(503), refuses(429))

    with pytest.raises(UpstreamError) as caught:
        await ask(retry(3), upstream=upstream, call=call())

    assert caught.value.status == 429


@pytest.mark.parametrize(
    ("part", "times"),
    [(0.0, [0, 0, 0, 0, 0, 0]), (0.5, [0, 0.5, 1.5, 3.5, 7.5, 12.5]), (1.0, [0, 1, 3, 7, 15, 25])],
)
async def test_the_longest_wait_doubles_up_to_a_bound_and_any_part_of_it_is_drawn(
    upstream: Watched, draw: Callable[[float], None], part: float, times: list[float]
) -> None:
    draw(part)
    upstream.script(refuses(503))

    with pytest.raises(UpstreamError):
        await ask(retry(6), upstream=upstream, call=call(), budget=Budget(share=9))

    assert upstream.times == times


async def test_waits_differ_so_that_clients_do_not_come_back_together(clock: Clock) -> None:
    waits = set()
    for _ in range(20):
        upstream = Watched(clock)
        upstream.script(refuses(503), says("hello"))
        await raw(await ask(retry(wait=8), upstream=upstream, call=call()))
        waits.add(upstream.times[1])

    assert len(waits) > 10
    assert 0 <= min(waits) < 4 < max(waits) <= 8


async def test_the_upstream_is_not_asked_sooner_than_it_wants(
    upstream: Watched, draw: Callable[[float], None]
) -> None:
    draw(1.0)
    upstream.script(
        refuses(429, retry_after=7), refuses(429, retry_after=0.5), refuses(429), says("hello")
    )

    await raw(await ask(retry(4), upstream=upstream, call=call()))

    assert upstream.times == [0, 7, 9, 13]


@pytest.mark.parametrize(("wanted", "times"), [(10, [0, 10]), (10.1, [0]), (3600, [0])])
async def test_nobody_is_kept_waiting_longer_than_the_longest_wait(
    upstream: Watched, wanted: float, times: list[float]
) -> None:
    upstream.script(refuses(429, retry_after=wanted))

    with pytest.raises(UpstreamError) as caught:
        await ask(retry(2, longest=10), upstream=upstream, call=call())

    assert upstream.times == times
    assert caught.value.retry_after == wanted


async def test_a_wait_beyond_the_calls_time_is_not_begun(upstream: Watched) -> None:
    upstream.script(refuses(429, retry_after=5))

    with pytest.raises(UpstreamError) as caught:
        await ask(retry(), upstream=upstream, call=call(seconds=4))

    assert upstream.times == [0]
    assert caught.value.status == 429


@pytest.mark.parametrize(
    "line",
    ["86400", "-5", "soon", "nan", "inf", "Sun, 06 Nov 1994 08:49:37 GMT", "", "1e400", "0"],
)
async def test_a_hint_that_is_none_does_not_count(
    clock: Clock, draw: Callable[[float], None], line: str
) -> None:
    draw(0.0)
    async with Loopback() as server, asyncio.timeout(2):
        server.script(status(429, {}, f"retry-after: {line}"))
        limited = gateway(
            f"""
            upstreams:
              a: {{forwarder: {{openai: {{base_url: {server.url}}}}}, plugins: [retry]}}
            routes: {{"*": a}}
            """
        )
        async with limited.lifespan():
            answer = await Client(limited).chat()

    assert len(server.requests) == 2
    assert (answer.status, answer.headers.get("retry-after")) == (429, None)


async def test_the_client_is_told_when_to_come_back(clock: Clock) -> None:
    async with Loopback() as server:
        server.script(status(429, {}, "retry-after-ms: 30500", "retry-after: 31"))
        limited = gateway(
            f"""
            upstreams:
              a: {{forwarder: {{openai: {{base_url: {server.url}}}}}, plugins: [retry]}}
            routes: {{"*": a}}
            """
        )
        async with limited.lifespan():
            answer = await Client(limited).chat()

    assert len(server.requests) == 1
    assert answer.headers["retry-after"] == "31"
    assert 30000 < int(answer.headers["retry-after-ms"]) <= 30500  # less what has gone by


async def test_a_client_that_leaves_meanwhile_ends_it(upstream: Watched) -> None:
    upstream.script(refuses(429, retry_after=9), says("too late"))
    asked = asyncio.ensure_future(ask(retry(), upstream=upstream, call=call()))
    await upstream.began.wait()

    asked.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asked
    assert upstream.times == [0]


async def test_an_upstream_that_does_not_begin_in_time_is_asked_again(upstream: Watched) -> None:
    upstream.script(silent(), says("hello"))

    assert await text(await ask(retry(), upstream=upstream, call=call(stream=True))) == "hello"

    assert upstream.cancelled == 1


async def test_a_stream_is_asked_again_only_before_its_first_words(upstream: Watched) -> None:
    upstream.script(breaks(), breaks("hel"), says("hello"))
    reply = await ask(retry(), upstream=upstream, call=call(stream=True))

    with pytest.raises(UpstreamError):
        await raw(reply)

    assert len(upstream.asked) == 2


async def test_its_waits_are_not_taken_for_time_that_the_gateway_needs(upstream: Watched) -> None:
    upstream.script(refuses(429, retry_after=3), says("hello"))
    asked = call()

    await raw(await ask(retry(), upstream=upstream, call=asked))

    [(began, ended)] = asked.record.waits
    first, second = asked.record.attempts
    assert first.ended
    assert first.ended <= began <= ended <= second.started


# Where others can be asked instead


OTHERS = Others(lambda error: error.elsewhere)
NOBODY = Others(lambda error: False)


@pytest.mark.parametrize("failing", [refuses(429, retry_after=3), refuses(503, retry_after=0.1)])
async def test_nobody_waits_for_one_target_while_another_is_free(
    upstream: Watched, failing: Act
) -> None:
    upstream.script(failing, says("too late"))

    with pytest.raises(UpstreamError):
        await ask(retry(), upstream=upstream, call=call().telling(OTHERS))

    assert upstream.times == [0]


@pytest.mark.parametrize("when", [None, [Failure("first_byte_timeout")]])
async def test_silence_is_not_repeated_while_another_is_free(
    upstream: Watched, when: list[Failure] | None
) -> None:
    upstream.script(silent(), says("too late"))

    with pytest.raises(UpstreamError):
        await ask(Retry(when=when), upstream=upstream, call=call(stream=True).telling(OTHERS))

    assert upstream.times == [0]


@pytest.mark.parametrize("failing", [down(), refuses(429), refuses(500), breaks()])
async def test_what_has_failed_quickly_is_asked_again_all_the_same(
    upstream: Watched, failing: Act
) -> None:
    upstream.script(failing, says("hello"))

    reply = await ask(retry(), upstream=upstream, call=call().telling(OTHERS))

    assert await text(reply) == "hello"


@pytest.mark.parametrize("failing", [refuses(429, retry_after=3), silent()])
async def test_others_that_are_not_asked_after_such_a_failure_are_no_reason_to_give_up(
    upstream: Watched, failing: Act
) -> None:
    upstream.script(failing, says("hello"))

    reply = await ask(retry(), upstream=upstream, call=call(stream=True).telling(NOBODY))

    assert await text(reply) == "hello"


def test_it_asks_at_least_once() -> None:
    with pytest.raises(ValueError, match="attempts must be at least 1, found 0"):
        Retry(attempts=0)
