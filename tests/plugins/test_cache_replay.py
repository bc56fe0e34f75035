"""`cache`: what is told again has everything that was told first, in either form."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from headrace import Event
from headrace.testing import Clock, Upstream, ask, call, raw
from headrace_plugins.cache import Cache

from .cache.asking import answer, asked, gives, status, values

STREAM: Any = {"stream": True, "stream_options": {"include_usage": True}}
CHUNK = {"id": "chatcmpl-7", "object": "chat.completion.chunk", "created": 7, "model": "m-7"}
USAGE = {"prompt_tokens": 3, "completion_tokens": 9, "total_tokens": 12, "x_details": {"a": 1}}
MESSAGE = {
    "role": "assistant",
    "content": "Let me look.",
    "reasoning_content": "I need two tools",
    "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
        {"id": "c2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ],
    "x_unknown": {"kept": True},
}
PLAIN = {
    "id": "chatcmpl-7",
    "object": "chat.completion",
    "created": 7,
    "model": "m-7",
    "x_region": "eu",
    "choices": [{"index": 0, "message": MESSAGE, "finish_reason": "tool_calls"}],
    "usage": USAGE,
}


def delta(**members: Any) -> dict[str, Any]:
    finish = members.pop("finish", None)
    choice = {"index": 0, "delta": members, "finish_reason": finish}
    return {**CHUNK, "x_region": "eu", "choices": [choice]}


CHUNKS = [
    delta(role="assistant", content=None),
    delta(reasoning_content="I need "),
    delta(reasoning_content="two tools"),
    delta(content="Let me "),
    delta(content="look."),
    delta(tool_calls=[{"index": 0, "id": "c1", "type": "function", "function": {"name": "f"}}]),
    delta(tool_calls=[{"index": 0, "function": {"arguments": '{"x":'}}]),
    delta(tool_calls=[{"index": 1, "id": "c2", "type": "function", "function": {"name": "g"}}]),
    delta(tool_calls=[{"index": 0, "function": {"arguments": " 1}"}}]),
    delta(tool_calls=[{"index": 1, "function": {"arguments": "{}"}}]),
    delta(x_unknown={"kept": True}),
    delta(finish="tool_calls"),
    {**CHUNK, "x_region": "eu", "choices": [], "usage": USAGE},
]


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


async def test_a_stream_is_told_again_event_by_event(upstream: Upstream) -> None:
    cache = Cache()
    upstream.script(gives(*CHUNKS))

    first = await answer(cache, upstream, asked(**STREAM))
    again = await answer(cache, upstream, asked(**STREAM))

    assert again == first
    assert values(again) == [*CHUNKS, "DONE"]


async def test_a_plain_answer_is_told_again_to_the_byte(upstream: Upstream) -> None:
    cache = Cache()
    upstream.script(gives(PLAIN))

    first = await answer(cache, upstream, asked())

    assert await answer(cache, upstream, asked()) == first


async def test_a_stream_is_told_as_a_whole_to_one_who_wants_that(upstream: Upstream) -> None:
    cache = Cache()
    upstream.script(gives(*CHUNKS))
    await answer(cache, upstream, asked(**STREAM))
    given = asked()

    reply = await ask(cache, upstream=upstream, call=given)

    assert reply.framing == "json"
    assert orjson.loads(await raw(reply)) == PLAIN
    assert status(given) == "hit"


async def test_a_whole_is_told_as_a_stream_to_one_who_wants_that(upstream: Upstream) -> None:
    cache = Cache()
    upstream.script(gives(PLAIN))
    await answer(cache, upstream, asked())

    reply = await ask(cache, upstream=upstream, call=asked(**STREAM))
    assert reply.framing == "sse"
    *chunks, usage, done = values(await raw(reply))

    assert done == "DONE"
    assert usage["usage"] == USAGE
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(each.get("content") or "" for each in deltas) == "Let me look."
    calls = [call for each in deltas for call in each.get("tool_calls") or ()]
    assert [(call["index"], call["id"]) for call in calls] == [(0, "c1"), (1, "c2")]
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert {chunk["id"] for chunk in chunks} == {"chatcmpl-7"}
    assert {chunk["x_region"] for chunk in chunks} == {"eu"}


async def test_comments_and_marks_of_the_end_are_not_kept_twice(upstream: Upstream) -> None:
    cache = Cache()

    async def noisy(upstream: Upstream, given: Any) -> Any:
        reply = await gives(*CHUNKS)(upstream, given)

        async def with_comments(events: Any) -> Any:
            async for event in events:
                yield Event(b": ping\n\n")
                yield event

        return reply.through(with_comments)

    upstream.script(noisy)
    first = await answer(cache, upstream, asked(**STREAM))
    again = await answer(cache, upstream, asked(**STREAM))

    assert b": ping" in first
    assert values(again) == [*CHUNKS, "DONE"]


async def test_a_stream_that_finished_without_its_mark_has_one_when_it_is_told_again(
    upstream: Upstream,
) -> None:
    cache = Cache()

    async def markless(upstream: Upstream, given: Any) -> Any:
        reply = await gives(*CHUNKS)(upstream, given)

        async def cut(events: Any) -> Any:
            async for event in events:
                if event.data != b"[DONE]":
                    yield event

        return reply.through(cut)

    upstream.script(markless)
    await answer(cache, upstream, asked(**STREAM))

    assert values(await answer(cache, upstream, asked(**STREAM))) == [*CHUNKS, "DONE"]


async def test_headers_of_one_exchange_are_not_told_again(upstream: Upstream) -> None:
    async def with_headers(upstream: Upstream, given: Any) -> Any:
        reply = await gives(PLAIN)(upstream, given)
        for name in ("x-ratelimit-remaining-requests", "x-headrace-upstream-request-id"):
            reply.headers[name] = "7"
        reply.headers["openai-version"] = "2020-10-01"
        return reply

    cache = Cache()
    upstream.script(with_headers)
    await answer(cache, upstream, asked())
    reply = await ask(cache, upstream=upstream, call=asked())
    await raw(reply)

    assert dict(reply.headers) == {
        "openai-version": "2020-10-01",
        "x-headrace-upstream": "a",
        "x-headrace-model": "m-7",
    }


@pytest.mark.parametrize(("replay", "took"), [("at_once", 0), ("timed", 2.75)])
async def test_a_stream_may_be_told_at_its_first_pace(
    upstream: Upstream, clock: Clock, replay: Any, took: float
) -> None:
    async def slow(upstream: Upstream, given: Any) -> Any:
        async def paced(events: Any) -> Any:
            async for event in events:
                await asyncio.sleep(0.25)
                yield event

        return (await gives(*CHUNKS)(upstream, given)).through(paced)

    clock.jumps = True
    cache = Cache(replay=replay)
    upstream.script(slow)
    await answer(cache, upstream, asked(**STREAM))

    began = clock.now
    told = await answer(cache, upstream, asked(**STREAM))

    assert len(values(told)) == len(CHUNKS) + 1
    assert clock.now - began == pytest.approx(took, abs=0.1)


async def test_completions_are_told_in_either_form(upstream: Upstream) -> None:
    cache = Cache()
    text = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m"}
    whole = {**text, "choices": [{"index": 0, "text": "once upon", "finish_reason": "stop"}]}
    upstream.script(gives(whole))
    await raw(await ask(cache, upstream=upstream, call=call("completion", prompt="x")))

    asked_for = call("completion", prompt="x", stream=True)
    told = values(await raw(await ask(cache, upstream=upstream, call=asked_for)))

    assert "".join(v["choices"][0]["text"] for v in told if v != "DONE") == "once upon"
    assert len(upstream.asked) == 1


@pytest.mark.parametrize(
    "junk", [[{"role": "x"}, 5], {"0": {}}, [{"index": "a", "delta": {"tool_calls": 5}}]]
)
async def test_what_has_no_other_form_is_asked_for_anew(junk: Any, upstream: Upstream) -> None:
    cache = Cache()
    odd = {**CHUNK, "choices": junk}
    upstream.script(gives(*CHUNKS[:-2], odd, *CHUNKS[-2:]), gives(PLAIN))
    await answer(cache, upstream, asked(**STREAM))

    given = asked()
    reply = await ask(cache, upstream=upstream, call=given)

    assert orjson.loads(await raw(reply)) == PLAIN
    assert status(given) == "miss"
    assert len(upstream.asked) == 2


async def test_a_model_in_any_script_is_told_again(upstream: Upstream) -> None:
    cache = Cache()
    upstream.script(gives({**PLAIN, "model": "通义千问"}))

    first = await answer(cache, upstream, asked())

    assert await answer(cache, upstream, asked()) == first
