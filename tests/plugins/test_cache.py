"""`cache`: a question that was asked before is answered from what is kept."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest

from headrace import (
    CallError,
    Duration,
    Memory,
    Outgoing,
    Resolved,
    Size,
    Store,
    Target,
    Unavailable,
    taken_apart,
)
from headrace.telling import telling
from headrace.testing import (
    Clock,
    Upstream,
    ask,
    breaks,
    chunk,
    down,
    raw,
    refuses,
    says,
    settled,
    stalls,
    text,
)
from headrace_plugins.cache import Cache

from .cache.asking import answer, asked, gives, passes, status, values


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


STREAM: Any = {"stream": True}
USAGE: Any = {"stream": True, "stream_options": {"include_usage": True}}


def choices(*said: str, finish: tuple[str | None, ...] = ()) -> Any:
    """A chunk with a part of each of several choices."""
    told = [{"content": word} for word in said] or [{}] * len(finish)
    ends = finish or [None] * len(said)
    parts = [
        {"index": n, "delta": delta, "finish_reason": end}
        for n, (delta, end) in enumerate(zip(told, ends, strict=True))
    ]
    return {**chunk(), "choices": parts}


# What is the same question


async def test_what_was_asked_before_is_answered_without_asking(upstream: Upstream) -> None:
    cache = Cache()
    first, second = asked(), asked()

    answers = [await answer(cache, upstream, given) for given in (first, second)]

    assert answers[0] == answers[1]
    assert (status(first), status(second)) == ("miss", "hit")
    assert len(upstream.asked) == 1
    assert second.record.attempts == []


@pytest.mark.parametrize(
    "other",
    [
        {"model": "n"},
        {"messages": [{"role": "user", "content": "bye"}]},
        {
            "messages": [
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": "hi"},
            ]
        },
        {"temperature": 0.5},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"x_unknown": 1},
        {"seed": 7},
        {"route": "n"},
        {"headers": {"openai-beta": "assistants=v2"}},
        {"operation": "completion"},
    ],
    ids=lambda other: next(iter(other)),
)
async def test_what_differs_is_another_question(
    upstream: Upstream, other: Mapping[str, Any]
) -> None:
    cache = Cache()
    await answer(cache, upstream, asked())

    await answer(cache, upstream, asked(**other))

    assert len(upstream.asked) == 2


@pytest.mark.parametrize(
    ("one", "other"),
    [(12345678901234567890123, 12345678901234567890124), (1, True), (1, 1.0), ("1", 1)],
)
async def test_numbers_are_told_apart_to_the_last_digit(
    upstream: Upstream, one: Any, other: Any
) -> None:
    cache = Cache()
    for seed in (one, other):
        body = b'{"model": "m", "messages": [], "seed": %s}'
        written = str(seed).lower() if not isinstance(seed, str) else f'"{seed}"'
        await answer(cache, upstream, asked(body=body % written.encode()))

    assert len(upstream.asked) == 2


async def test_order_and_space_make_no_other_question(upstream: Upstream) -> None:
    cache = Cache()

    await answer(cache, upstream, asked(body=b'{"model":"m","messages":[],"n":1}'))
    await answer(cache, upstream, asked(body=b'{ "n": 1, "messages": [], "model": "m" }'))

    assert len(upstream.asked) == 1


async def test_other_upstreams_behind_the_route_give_other_answers(upstream: Upstream) -> None:
    cache = Cache()
    for given in (
        asked(),
        asked().telling(Resolved("m as it is now")),
        asked().replace(targets=(Target("a", "n"),)),
        asked().telling(Outgoing({"x-team": "red"})),
    ):
        await answer(cache, upstream, given)

    assert len(upstream.asked) == 4


async def test_a_number_that_cannot_be_told_from_others_is_not_kept(upstream: Upstream) -> None:
    cache = Cache()
    given = asked(body=b'{"model": "m", "messages": [], "x": 1e999}')

    await answer(cache, upstream, given)

    assert status(given) == "bypass"


# Whose answer it is


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"who": "ann"}, {"who": "bob"}),
        ({"who": "ann", "tenant": "red"}, {"who": "ann", "tenant": "blue"}),
        ({"who": "red"}, {"who": "ann", "tenant": "red"}),
    ],
    ids=["callers", "tenants", "a caller named as a tenant"],
)
async def test_nobody_is_given_anothers_answer(
    upstream: Upstream, one: dict[str, Any], other: dict[str, Any]
) -> None:
    cache = Cache()
    await answer(cache, upstream, asked(**one))

    await answer(cache, upstream, asked(**other))

    assert len(upstream.asked) == 2


async def test_callers_of_one_tenant_share_answers(upstream: Upstream) -> None:
    cache = Cache()
    for who in ("ann", "bob"):
        await answer(cache, upstream, asked(who=who, tenant="red"))

    assert len(upstream.asked) == 1


async def test_all_share_answers_where_that_is_written(upstream: Upstream) -> None:
    cache = Cache(tenants="shared")
    for who in ("ann", "bob"):
        await answer(cache, upstream, asked(who=who, tenant=who))

    assert len(upstream.asked) == 1


# What is kept


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_an_answer_is_good_until_its_time_is_over(
    upstream: Upstream, clock: Clock, stream: bool
) -> None:
    cache = Cache(ttl=Duration(60))
    made = []
    for seconds in (0, 59, 2):
        clock.advance(seconds)
        given = asked(stream=stream)
        await answer(cache, upstream, given)
        made.append(given.record.cache)

    assert [each and each.status for each in made] == ["miss", "hit", "miss"]
    assert made[1]
    assert made[1].age == pytest.approx(59, abs=0.5)
    assert made[1].ttl == pytest.approx(1, abs=0.5)


@pytest.mark.parametrize(
    "bad",
    [
        refuses(400),
        refuses(503),
        down(),
        breaks("hel", "lo"),
        gives(chunk(content="no"), chunk(finish="content_filter")),
        gives(choices("yes", "no"), choices(finish=("stop", "content_filter"))),
        gives(choices("yes", "no"), choices(finish=("stop", None))),
    ],
    ids=["400", "503", "down", "broken", "filtered", "one of two filtered", "one of two unended"],
)
async def test_what_failed_is_not_kept(upstream: Upstream, bad: Any) -> None:
    cache = Cache()
    upstream.script(bad, says("hello"))
    with suppress(CallError):
        await answer(cache, upstream, asked(**STREAM))
    again = asked(**STREAM)

    reply = await ask(cache, upstream=upstream, call=again)

    assert await text(reply) == "hello"
    assert status(again) == "miss"


async def test_a_plain_answer_is_not_kept_where_one_of_its_choices_was_filtered(
    upstream: Upstream,
) -> None:
    ends = ("stop", "content_filter")
    told = [
        {"index": n, "message": {"role": "assistant", "content": "x"}, "finish_reason": end}
        for n, end in enumerate(ends)
    ]
    cache = Cache()
    upstream.script(gives({"id": "1", "object": "chat.completion", "choices": told}))
    for _ in range(2):
        given = asked(n=2)
        await answer(cache, upstream, given)

    assert given.record.cache
    assert (given.record.cache.status, given.record.cache.why) == ("miss", "content_filter")


@pytest.mark.parametrize(
    ("act", "largest", "stream"),
    [
        (breaks("hel", "lo"), 1000, True),
        (refuses(503), 1000, False),
        (stalls("hel"), 1000, True),
        (says(*["word "] * 50), 1000, True),
        (says("word " * 300), 1000, False),
    ],
    ids=["truncated", "failed", "cancelled", "oversized", "oversized plain"],
)
async def test_nothing_is_left_in_the_store_of_what_is_not_kept(
    upstream: Upstream, act: Any, largest: int, stream: bool
) -> None:
    store = Memory()
    async with Cache(store=store, largest=Size(largest)) as cache:
        upstream.script(act)
        with suppress(CallError):
            reply = await ask(cache, upstream=upstream, call=asked(stream=stream))
            await anext(reply.events)
            if act.__qualname__.startswith("stalls"):
                await reply.aclose(asyncio.CancelledError())
            await raw(reply)

    assert await store.clear("") == 0


async def test_an_answer_that_its_client_leaves_is_not_kept(upstream: Upstream) -> None:
    cache = Cache()
    upstream.script(stalls("hel"), says("hello"))
    reply = await ask(cache, upstream=upstream, call=asked(**STREAM))
    await anext(reply.events)
    await reply.aclose()

    again = asked(**STREAM)
    await answer(cache, upstream, again)

    assert status(again) == "miss"
    assert upstream.open == 0


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_an_answer_that_is_too_large_reaches_its_client_and_is_not_kept(
    upstream: Upstream, stream: bool
) -> None:
    cache = Cache(largest=Size(1000))
    upstream.script(says(*["word "] * 50) if stream else says("word " * 300))
    for _ in range(2):
        given = asked(stream=stream)
        reply = await ask(cache, upstream=upstream, call=given)

        assert len(await text(reply)) >= 250
        assert given.record.cache
        assert (given.record.cache.status, given.record.cache.why) == ("miss", "too large")
        assert not given.record.cache.stored


async def test_a_plugin_below_may_say_that_an_answer_is_not_to_be_kept(upstream: Upstream) -> None:
    async def private(call: Any, call_next: Any) -> Any:
        reply = await call_next(call)
        reply.headers["cache-control"] = "no-store"
        return reply

    cache = Cache()
    for _ in range(2):
        given = asked()
        await raw(await ask(cache, private, upstream=upstream, call=given))

    assert len(upstream.asked) == 2
    assert given.record.cache
    assert given.record.cache.why == "no-store"


@pytest.mark.parametrize(
    ("members", "kept"),
    [
        ({}, False),
        ({"temperature": 0.7}, False),
        ({"temperature": 0}, True),
        ({"temperature": 0.0}, True),
        ({"seed": 7}, True),
    ],
)
async def test_what_is_asked_at_random_may_be_left_out(
    upstream: Upstream, members: dict[str, Any], kept: bool
) -> None:
    cache = Cache(when="deterministic")
    for _ in range(2):
        given = asked(**members)
        await answer(cache, upstream, given)

    assert len(upstream.asked) == (1 if kept else 2)
    assert status(given) == ("hit" if kept else "bypass")


async def test_operations_are_opened_to_it_by_name(upstream: Upstream) -> None:
    upstream.script(passes(b"\x00", b"\xff"))
    for cache, times in ((Cache(), 2), (Cache(operations=["passthrough"]), 1)):
        upstream.asked.clear()
        for _ in range(2):
            given = asked("passthrough", body=b"\x00 a form")
            assert await answer(cache, upstream, given) == b"\x00\xff"

        assert len(upstream.asked) == times


async def test_the_same_path_with_another_body_is_another_question(upstream: Upstream) -> None:
    cache = Cache(operations=["passthrough"])
    upstream.script(passes(b"\x00"))
    for body in (b"one", b"two"):
        await answer(cache, upstream, asked("passthrough", body=body))

    assert len(upstream.asked) == 2


async def test_a_cache_below_a_cache_leaves_the_question_to_the_one_above(
    upstream: Upstream,
) -> None:
    above, below = Cache(), Cache()
    for _ in range(2):
        given = asked()
        await raw(await ask(above, below, upstream=upstream, call=given))

    assert status(given) == "hit"
    assert len(upstream.asked) == 1


# What a client wants of it


async def test_no_cache_asks_anew_and_keeps_the_answer(upstream: Upstream) -> None:
    cache = Cache()
    upstream.script(says("old"), says("new"))
    await answer(cache, upstream, asked())

    for headers in ({"cache-control": "No-Cache"}, {}):
        given = asked(headers=headers)
        assert await text(await ask(cache, upstream=upstream, call=given)) == "new"


async def test_no_store_leaves_the_cache_alone(upstream: Upstream) -> None:
    cache = Cache()
    upstream.script(says("old"), says("new"))
    await answer(cache, upstream, asked())
    given = asked(headers={"cache-control": "no-store"})

    assert await text(await ask(cache, upstream=upstream, call=given)) == "new"
    assert await text(await ask(cache, upstream=upstream, call=asked())) == "old"
    assert status(given) == "bypass"


async def test_max_age_takes_what_is_young_enough(upstream: Upstream, clock: Clock) -> None:
    cache = Cache()
    await answer(cache, upstream, asked())
    clock.advance(30)
    younger, older = (asked(headers={"cache-control": f"max-age={s}"}) for s in (20, 40))

    await answer(cache, upstream, older)
    await answer(cache, upstream, younger)

    assert (status(older), status(younger)) == ("hit", "miss")


async def test_only_if_cached_is_refused_where_nothing_is(upstream: Upstream) -> None:
    cache = Cache()
    wanted = {"cache-control": "only-if-cached"}
    with pytest.raises(CallError) as refused:
        await answer(cache, upstream, asked(headers=wanted))
    assert (refused.value.status, refused.value.code) == (504, "not_cached")
    assert refused.value.headers["x-should-retry"] == "false"
    assert upstream.asked == []
    await answer(cache, upstream, asked())

    given = asked(headers=wanted)
    await answer(cache, upstream, given)

    assert status(given) == "hit"


@pytest.mark.parametrize("said", ["max-age=", "max-age=-1", "max-age=x", "public", "", "max-age=²"])
async def test_what_makes_no_sense_says_nothing(upstream: Upstream, said: str) -> None:
    cache = Cache()
    await answer(cache, upstream, asked())
    given = asked(headers={"cache-control": said})

    await answer(cache, upstream, given)

    assert status(given) == "hit"


# What is told


async def test_headers_say_what_became_of_it(upstream: Upstream, clock: Clock) -> None:
    cache = Cache(ttl=Duration(60))
    told = []
    for seconds, headers in ((0, {}), (20, {}), (0, {"cache-control": "no-store"})):
        clock.advance(seconds)
        given = asked(headers=headers)
        await answer(cache, upstream, given)
        lines = telling(given.record)
        told.append([lines.get(name) for name in ("x-headrace-cache", "cache-status", "age")])

    assert told == [
        ["miss", "headrace; fwd=miss; stored", None],
        ["hit", "headrace; hit; ttl=39", "20"],
        ["bypass", "headrace; fwd=bypass", None],
    ]


@pytest.mark.parametrize(
    ("kept", "said", "told"),
    [
        (None, "no-cache", "fwd=miss; stored"),
        (10, "no-cache", "fwd=request; stored"),
        (10, "max-age=5", "fwd=request; stored"),
        (90, "no-cache", "fwd=stale; stored"),
        (90, "", "fwd=stale; stored"),
    ],
)
async def test_headers_say_why_it_was_asked_although_an_answer_is_kept(
    upstream: Upstream, clock: Clock, kept: float | None, said: str, told: str
) -> None:
    cache = Cache(ttl=Duration(60), stale_if_error=Duration(60))
    if kept is not None:
        await answer(cache, upstream, asked())
        clock.advance(kept)
    given = asked(headers={"cache-control": said})

    await answer(cache, upstream, given)

    lines = telling(given.record)
    assert (lines["x-headrace-cache"], lines["cache-status"]) == ("miss", f"headrace; {told}")


async def test_usage_is_told_to_the_client_and_noted_as_saved(upstream: Upstream) -> None:
    cache = Cache()
    await answer(cache, upstream, asked(**STREAM))
    given = asked(**USAGE)

    told = values(await answer(cache, upstream, given))

    assert told[-2]["usage"]["total_tokens"] == 5
    assert given.record.cache
    assert given.record.cache.saved
    assert (given.record.cache.saved.input, given.record.cache.saved.output) == (3, 2)
    assert given.record.usage is None


async def test_who_did_not_ask_for_usage_gets_none(upstream: Upstream) -> None:
    cache = Cache()
    await answer(cache, upstream, asked(**USAGE))

    told = values(await answer(cache, upstream, asked(**STREAM)))

    assert not any(value != "DONE" and value.get("usage") for value in told)


# Beyond its time


async def test_an_old_answer_is_given_while_a_new_one_is_asked_for(
    upstream: Upstream, clock: Clock
) -> None:
    cache = Cache(ttl=Duration(60), stale_while_revalidate=Duration(60))
    upstream.script(says("old"), says("new"))
    await answer(cache, upstream, asked())
    clock.advance(90)
    stale, fresh = asked(), asked()

    assert await text(await ask(cache, upstream=upstream, call=stale)) == "old"
    await settled()
    assert await text(await ask(cache, upstream=upstream, call=fresh)) == "new"

    assert (status(stale), status(fresh)) == ("stale", "hit")
    assert stale.record.attempts == []
    assert telling(stale.record)["cache-status"] == "headrace; hit; ttl=-31"
    assert upstream.open == 0


async def test_an_old_answer_is_given_when_the_upstream_fails(
    upstream: Upstream, clock: Clock
) -> None:
    cache = Cache(ttl=Duration(60), stale_if_error=Duration(60))
    upstream.script(says("old"), down(), refuses(400), down())
    await answer(cache, upstream, asked())
    clock.advance(90)
    given = asked()

    assert await text(await ask(cache, upstream=upstream, call=given)) == "old"
    with pytest.raises(CallError):
        await answer(cache, upstream, asked())
    clock.advance(60)
    with pytest.raises(CallError):
        await answer(cache, upstream, asked())

    assert status(given) == "stale"
    assert telling(given.record)["cache-status"] == "headrace; fwd=stale; ttl=-31"


# The store


class Broken(Memory):
    """A store that does not answer."""

    shared = True

    async def get(self, key: str) -> bytes | None:
        raise Unavailable("silent")

    async def set(self, key: str, value: bytes, *, ttl: float) -> bool:
        raise Unavailable("silent")


class Full(Memory):
    """A store that takes nothing more."""

    async def set(self, key: str, value: bytes, *, ttl: float) -> bool:
        raise Unavailable("OOM")


@pytest.mark.parametrize("store", [Broken(), Full(), Memory(value=Size(10))])
async def test_a_store_that_fails_costs_a_miss(upstream: Upstream, store: Store) -> None:
    cache = Cache(store=store)
    for _ in range(2):
        given = asked()
        assert await text(await ask(cache, upstream=upstream, call=given)) == "hello"
        await settled()
        assert given.record.cache
        assert (given.record.cache.status, given.record.cache.stored) == ("miss", False)


async def test_what_makes_no_sense_in_the_store_is_a_miss(upstream: Upstream) -> None:
    store = Memory()
    cache = Cache(store=store)
    await answer(cache, upstream, asked())
    (key,) = store._values._kept
    kept = await store.get(key)
    assert kept
    for garbage in (b"", b"\x00", b"\x01abc", kept[:-1], kept + b"x", b"\x00{}\n", b"\x00[]\n"):
        await store.set(key, garbage, ttl=60)
        given = asked()

        await answer(cache, upstream, given)

        assert status(given) == "miss"


async def test_what_is_kept_outlives_the_plugin(upstream: Upstream) -> None:
    store = Memory()
    async with Cache(store=store) as cache:
        await answer(cache, upstream, asked())
    given = asked()

    async with Cache(store=store) as cache:
        await answer(cache, upstream, given)

    assert status(given) == "hit"


async def test_large_answers_are_compressed_where_the_store_is_shared(upstream: Upstream) -> None:
    class Shared(Memory):
        shared = True

    store = Shared()
    cache = Cache(store=store, compress=Size(100))
    upstream.script(says("la " * 5000))
    first = await answer(cache, upstream, asked())
    (key,) = store._values._kept

    assert len(await store.get(key) or b"") < 1000
    assert await answer(cache, upstream, asked()) == first


@pytest.mark.parametrize(("words", "beside"), [(10, False), (100_000, True)])
async def test_large_answers_are_put_together_beside_the_event_loop(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch, words: int, beside: bool
) -> None:
    threads = []

    def noted(answer: bytes) -> list[bytes]:
        threads.append(threading.current_thread())
        return taken_apart(answer)

    monkeypatch.setattr("headrace_plugins.cache.stored.taken_apart", noted)
    cache = Cache()
    upstream.script(says("word " * words))
    await answer(cache, upstream, asked())

    reply = await ask(cache, upstream=upstream, call=asked(**STREAM))

    assert len(await text(reply)) == 5 * words
    assert [thread is not threading.main_thread() for thread in threads] == [beside]


async def test_one_cache_can_be_told_from_another_by_its_name(upstream: Upstream) -> None:
    store = Memory()
    for name in ("one", "two"):
        await answer(Cache(store=store, name=name), upstream, asked())

    assert len(upstream.asked) == 2


@pytest.mark.parametrize(
    "options", [{"name": ""}, {"name": "a:b"}, {"ttl": Duration(0)}, {"largest": Size(0)}]
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Cache(**options)
