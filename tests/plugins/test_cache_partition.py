"""`cache`: whatever tenants ask in whatever order, nobody is given another's answer."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from random import Random

import pytest

from headrace import Call, Caller, Event, Memory, Reply, Sha256
from headrace.testing import Upstream, ask, chunk, text
from headrace_plugins.cache import Cache

from .cache.asking import asked

TENANTS = ("red", "blue", "red ", "")
KEY = Sha256("0" * 64)
CASES = 3000


def owned(caller: Caller | None) -> str:
    """Whose the answers are that this caller may be given."""
    if caller is None:
        return "nobody"
    owner = caller.tenant or f"{'key' if caller.key else 'id'}/{caller.id}"
    return f"{owner} of {caller.issuer}"


async def telling(upstream: Upstream, call: Call) -> Reply:
    """An answer that says whose it is, now and then after others had their turn."""
    owner = owned(call.caller)
    said = f"{owner} asked {call.members['seed']}"
    if not call.dialect.streams(call):
        await asyncio.sleep(0)
        message = {"role": "assistant", "content": said}
        return Reply.plain({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})

    async def events() -> AsyncIterator[Event]:
        for word in (said, ""):
            yield Event.saying(chunk(content=word), "sse")
            await asyncio.sleep(0)
        yield Event.saying(chunk(finish="stop"), "sse")
        yield Event(b"data: [DONE]\n\n", b"[DONE]")

    return Reply(events(), framing="sse")


async def check(random: Random, cases: int) -> int:
    """Ask at random, some at a time; how many were not asked of the upstream."""
    upstream = Upstream()
    upstream.script(telling)
    cache = Cache(store=Memory(entries=20))

    async def visit() -> None:
        tenant, who = random.choice(TENANTS), random.choice(("ann", "red", "blue"))
        key = KEY if random.random() < 0.5 else None
        caller: Caller | None = None
        if random.random() < 0.95:
            issuer = random.choice((None, "one", "two"))
            caller = Caller(
                "entry", id=who, issuer=issuer, tenant=tenant or None, key=key, listed=True
            )
        owner = owned(caller)
        question, stream = random.randrange(8), random.random() < 0.5
        given = asked(seed=question, stream=stream).replace(caller=caller)
        for _ in range(random.randrange(4)):
            await asyncio.sleep(0)
        reply = await ask(cache, upstream=upstream, call=given)
        if random.random() < 0.1:
            await reply.aclose(asyncio.CancelledError())
            return
        said = await text(reply)
        asker, _, asked_for = said.partition(" asked ")
        assert asker == owner, f"{owner!r} was given the answer of {asker!r}"
        assert asked_for == str(question)

    for _ in range(0, cases, 10):
        await asyncio.gather(*(visit() for _ in range(10)))
    return cases - len(upstream.asked)


@pytest.mark.parametrize("seed", [1, 2])
async def test_nobody_is_given_anothers_answer(seed: int) -> None:
    assert await check(Random(seed), CASES) > CASES / 10, "hardly anything was kept"


@pytest.mark.fuzz
async def test_nobody_is_given_anothers_answer_in_many_orders() -> None:
    cases = int(os.environ.get("FUZZ_CASES", "2000"))

    assert await check(Random(), cases) > 0
