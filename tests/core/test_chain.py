"""Chains: order, and what becomes of replies that nobody returned."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from headrace import Call, Next, Plugin, Reply, UpstreamError, compose
from headrace.testing import Upstream, ask, call, down, says, silent, text


class Noting:
    """Writes its name before and after."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self.name, self.notes = name, notes

    async def __call__(self, call: Call, call_next: Next) -> Reply:
        self.notes.append(f"{self.name} asks")
        reply = await call_next(call)
        self.notes.append(f"{self.name} answers")
        return reply


class Race:
    """Asks all targets at once and returns the first."""

    async def __call__(self, call: Call, call_next: Next) -> Reply:
        tasks = [asyncio.ensure_future(call_next(call.towards(t))) for t in call.targets]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        return next(iter(done)).result()


class Twice:
    """Asks twice and keeps the second."""

    async def __call__(self, call: Call, call_next: Next) -> Reply:
        await call_next(call)
        return await call_next(call)


class Bug:
    """Asks, then fails."""

    async def __call__(self, call: Call, call_next: Next) -> Reply:
        await call_next(call)
        raise RuntimeError("a bug")


async def test_the_first_plugin_is_the_outermost() -> None:
    notes: list[str] = []
    plugins: Sequence[Plugin] = [Noting("a", notes), Noting("b", notes)]

    await text(await ask(*plugins, upstream=Upstream(), call=call()))

    assert notes == ["a asks", "b asks", "b answers", "a answers"]


async def test_a_reply_that_was_not_returned_is_closed() -> None:
    upstream = Upstream()

    reply = await ask(Twice(), upstream=upstream, call=call())

    assert (upstream.open, upstream.closed) == (1, 1)
    await reply.aclose()
    assert upstream.open == 0


async def test_what_a_failing_plugin_asked_for_is_closed() -> None:
    upstream = Upstream()

    with pytest.raises(RuntimeError):
        await ask(Bug(), upstream=upstream, call=call())

    assert (upstream.open, upstream.closed) == (0, 1)


async def test_losers_of_a_race_are_cancelled_or_closed() -> None:
    upstream = Upstream()
    upstream.script(silent(), says("won"), says("too late"))
    asked = call(targets=["a", "b", "c"])

    assert await text(await ask(Race(), upstream=upstream, call=asked)) in ("won", "too late")

    assert upstream.open == 0
    assert upstream.cancelled == 1
    outcomes = [attempt.outcome for attempt in asked.record.attempts]
    assert outcomes[0] == "cancelled"
    assert outcomes.count("ok") == 1


async def test_a_reply_that_comes_after_its_plugin_has_ended_is_closed() -> None:
    upstream = Upstream()
    asking: list[asyncio.Task[Reply]] = []

    class Careless:
        async def __call__(self, call: Call, call_next: Next) -> Reply:
            asking.append(asyncio.ensure_future(call_next(call)))
            raise UpstreamError("gone", code="gone")

    with pytest.raises(UpstreamError):
        await compose([Careless()], lambda c: ask(upstream=upstream, call=c))(call())
    await asyncio.wait(asking)

    assert (upstream.open, upstream.closed) == (0, 1)


async def test_a_failure_goes_through_as_it_is() -> None:
    upstream = Upstream()
    upstream.script(down())

    with pytest.raises(UpstreamError) as caught:
        await ask(Noting("a", []), upstream=upstream, call=call())

    assert caught.value.code == "connect_failed"


async def test_a_cancellation_while_losers_are_closed_closes_the_winner_too() -> None:
    upstream, slow = Upstream(), asyncio.Event()
    closing = asyncio.Event()

    class Slow:
        async def __call__(self, call: Call, call_next: Next) -> Reply:
            loser = await call_next(call)

            async def wait(error: BaseException | None) -> None:
                closing.set()
                await slow.wait()

            loser.on_close(wait)
            return await call_next(call)

    asking = asyncio.ensure_future(ask(Slow(), upstream=upstream, call=call()))
    await closing.wait()
    asking.cancel()
    slow.set()

    with pytest.raises(asyncio.CancelledError):
        await asking
    assert (upstream.open, upstream.closed) == (0, 2)


async def test_a_plugin_that_forgets_to_return_is_named() -> None:
    class Forgetful:
        async def __call__(self, call: Call, call_next: Next) -> Reply:
            await call_next(call)
            return None  # type: ignore[return-value]

    upstream = Upstream()

    with pytest.raises(TypeError, match="Forgetful returned None, expected the Reply"):
        await ask(Forgetful(), upstream=upstream, call=call())
    assert upstream.open == 0
